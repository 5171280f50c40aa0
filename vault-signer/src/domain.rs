//! The domain under which the suite's own names stand: in SSH, in Kubernetes, in labels.

/// Calls a macro with the domain as a literal, for attributes that take nothing else. A publisher changes this line, and
/// `common.domain` of the charts, which a test compares with it.
#[macro_export]
macro_rules! with_domain {
    ($callback:ident) => {
        $callback! { "tunnel-suite.internal" }
    };
}

macro_rules! names {
    ($domain:literal) => {
        /// The domain. `.internal` is reserved for private use.
        pub const DOMAIN: &str = $domain;
        /// The critical option by which a certificate confines itself to destinations.
        pub(crate) const PERMIT_OPEN: &str = concat!("permit-open@", $domain);
    };
}

with_domain!(names);
