//! Any text as a configuration: no panic, and every refusal says something.

#![no_main]

#[path = "../../mfs-ha/src"]
mod daemon {
    #[expect(
        dead_code,
        unreachable_pub,
        reason = "a module of the daemon, of which one half is used"
    )]
    pub(crate) mod config;
}

use std::path::Path;

use daemon::config::{ConfigError, Configuration, is_instance_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Configuration::parse(text, Path::new("fuzz.toml")) {
        Ok(configuration) => {
            assert!(is_instance_name(configuration.instance()));
            if let Some(cluster) = configuration.cluster() {
                assert!(cluster.own().is_some() && !cluster.list.is_empty());
                assert!(cluster.timing.lease >= 3 * cluster.timing.interval);
            }
            if let Configuration::Candidate(config) = configuration {
                assert!(config.carp.vhid > 0 && config.carp.deadratio > 0);
                assert!((1..=32).contains(&config.vip.prefix_len));
            }
        }
        Err(error) => {
            assert!(error.to_string().starts_with("fuzz.toml"), "{error}");
            if let ConfigError::Invalid { problems, .. } = &error {
                assert!(!problems.is_empty());
            }
        }
    }
});
