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
            let mut all: Vec<Dictionary> = Vec::new();
            for path in paths {
                let error = |why: String| format!("{option} {}: {why}", path.display());
                match read(path) {
                    Err(why) => wrong.push(error(why)),
                    // One of them would never be found.
                    Ok(dictionary) if all.iter().any(|other| other.id() == dictionary.id()) => {
                        wrong.push(error(format!("another one has the id {}, too: train it anew", dictionary.id())));
                    }
                    Ok(dictionary) => all.push(dictionary),
                }
            }
            all
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
