//! `crdgen`: prints the definitions of the bastion's Kubernetes objects.

use super::{Outcome, fail, print};
use crate::kubernetes::crd;

pub(super) fn run() -> Outcome {
    crd::yaml().map_err(|error| fail(1, error)).and_then(print)
}
