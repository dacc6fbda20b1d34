//! The dictionaries that options name.

use std::path::{Path, PathBuf};

use crate::proto::Dictionary;
use crate::proxy::ProxyConfig;

/// Their files.
#[derive(Clone, Debug, Default)]
pub(super) struct DictionaryFiles {
    pub(super) inbound: Vec<PathBuf>,
    pub(super) outbound: Vec<PathBuf>,
}

impl DictionaryFiles {
    /// Reads them into `config`; returns what is wrong, in words that name the option.
    pub(super) fn load(&self, config: &mut ProxyConfig) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut read = |paths: &[PathBuf], option: &str| {
            let read = |path: &PathBuf| {
                let dictionary = read(path).map_err(|why| format!("{option} {}: {why}", path.display()));
                dictionary.map_err(|why| wrong.push(why)).ok()
            };
            paths.iter().filter_map(read).collect()
        };
        config.inbound.dictionaries = read(&self.inbound, "--in-dictionary");
        config.outbound.dictionaries = read(&self.outbound, "--out-dictionary");
        wrong
    }
}

fn read(path: &Path) -> Result<Dictionary, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Dictionary::new(bytes).map_err(|error| format!("it is {error}; httptp train makes one"))
}
