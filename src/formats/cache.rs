//! The user's cache.

use std::path::PathBuf;

/// `$XDG_CACHE_HOME/selma` or `~/.cache/selma`; none where neither variable is set. It may not be there yet.
pub fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Some(cache?.join("selma"))
}
