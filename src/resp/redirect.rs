//! Which connections are sent to the node that leads a partition, and for which it is asked by this one.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::config::Redirect;

/// The setting, as all sessions read it.
#[derive(Debug, Default)]
pub struct RedirectSwitch(AtomicU8);

const AUTO: u8 = 0;
const ALWAYS: u8 = 1;
const NEVER: u8 = 2;

impl RedirectSwitch {
    /// Follows the setting.
    pub fn set(&self, redirect: Redirect) {
        let code = match redirect {
            Redirect::Auto => AUTO,
            Redirect::Always => ALWAYS,
            Redirect::Never => NEVER,
        };
        self.0.store(code, Relaxed);
    }

    /// Whether a connection is redirected; `knows_nodes`: it has asked which node leads what.
    #[must_use]
    pub fn redirects(&self, knows_nodes: bool) -> bool {
        match self.0.load(Relaxed) {
            ALWAYS => true,
            NEVER => false,
            _ => knows_nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_nodes_is_redirected_unless_it_is_set_otherwise() {
        let switch = RedirectSwitch::default();
        let both = || [switch.redirects(false), switch.redirects(true)];
        assert_eq!(both(), [false, true]);
        for (setting, expected) in
            [(Redirect::Always, [true; 2]), (Redirect::Never, [false; 2]), (Redirect::Auto, [false, true])]
        {
            switch.set(setting);
            assert_eq!(both(), expected, "{setting}");
        }
    }
}
