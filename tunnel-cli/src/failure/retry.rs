//! Says when an attempt that failed may succeed.

/// When the same attempt may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After a while, with nothing changed: the other side is away, busy or starting.
    Soon,
    /// On another route: what answers is not what was asked for, as behind a hotel's portal or a broken proxy.
    OnAnotherRoute,
    /// After a clock is set right.
    AfterClockIsSet,
    /// After the operator of the other side has changed something: what it refuses now, it gave before.
    AfterOperator,
    /// After the user has signed in, for a new token.
    AfterSignIn,
    /// Only with another configuration, or as another user.
    Never,
}

impl Retry {
    /// Whether waiting alone may help.
    pub(crate) fn is_soon(self) -> bool {
        self == Self::Soon
    }
}
