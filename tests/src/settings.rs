//! A configuration file of ours while a test still puts it together.

use serde_json::Value;

/// Sets what stands at a path such as `/limits/login_deadline`, and makes what leads there.
pub fn set(config: &mut Value, path: &str, value: Value) {
    let mut place = config;
    for name in path.trim_start_matches('/').split('/') {
        place = &mut place[name];
    }
    *place = value;
}
