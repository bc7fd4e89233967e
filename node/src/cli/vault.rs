//! `vault`: the credentials of plugins, put straight into the node's sealed file. A secret never travels over HTTP, and is
//! never an argument, which every process of the machine could read.

use super::Context;
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column};
use crate::config::ConfigLoader;
use adapters::vault::{SECRET_BYTES_MAX, Secret, Vault};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const COLUMNS: &[Column] = &[column("SECRET", "name", Kind::Text)];

/// Verbs of the vault.
#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Puts a secret in, from standard input or a file; in place of what had its name, from a plugin's next call on.
    #[command(after_help = "Examples:\n  pass show slurm-east | causeway vault put slurm-east/token --trim\n  \
        causeway vault put kube/client.pem --file client.pem --config /etc/causeway/node.toml")]
    Put {
        /// Its name: 1 to 128 of a-z, 0-9 and -_./
        name: String,
        /// The file with the secret. Default: standard input.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Leaves out white space at both ends, such as the newline that `echo` adds.
        #[arg(long)]
        trim: bool,
        #[command(flatten)]
        which: WhichVault,
    },
    /// The names of all secrets; what they hold is never shown.
    List {
        #[command(flatten)]
        which: WhichVault,
    },
    /// Takes a secret out.
    #[command(after_help = "Example:\n  causeway vault remove slurm-east/token")]
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        which: WhichVault,
    },
}

/// Which vault.
#[derive(Debug, Clone, Args)]
pub struct WhichVault {
    /// The node's configuration. Default: the vault of the node that runs on this machine.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl WhichVault {
    fn open(&self, context: &Context) -> Result<Vault, CliError> {
        let (vault, key) = match &self.config {
            Some(file) => ConfigLoader::load(Some(file), &[])?.config.vault_files(),
            None => {
                let node = context.target()?.node.ok_or_else(|| CliError::Usage {
                    message: "the vault is a file of the node's machine".to_owned(),
                    hint: Some("run this where the node runs, or name its configuration with --config FILE".to_owned()),
                })?;
                (node.vault, node.vault_key)
            }
        };
        Vault::open(&vault, &key).map_err(|error| CliError::failed(Exit::Failed, &error))
    }
}

/// Runs a verb.
pub fn run(command: VaultCommand, context: &Context) -> Result<Exit, CliError> {
    let failed = |error: adapters::vault::WriteVaultError| CliError::failed(Exit::Failed, &error);
    match command {
        VaultCommand::Put { name, file, trim, which } => {
            let vault = which.open(context)?;
            let read = read_secret(file.as_deref())?;
            let secret = if trim { read.trim_ascii() } else { &read };
            vault.put(&name, Secret::new(secret.to_vec())).map_err(failed)?;
            context.output.say(format!("{name} is in the vault ({} bytes)", secret.len()));
        }
        VaultCommand::List { which } => {
            let names: Vec<_> = which.open(context)?.names().into_iter().map(|name| json!({ "name": name })).collect();
            context.output.list(&json!({ "total": names.len(), "items": names }), COLUMNS, "name")?;
        }
        VaultCommand::Remove { name, which } => {
            if !which.open(context)?.remove(&name).map_err(failed)? {
                return Err(CliError::NotFound(format!("the vault has no secret {name:?}")));
            }
            context.output.say(format!("{name} is gone"));
        }
    }
    Ok(Exit::Ok)
}

/// Reads a secret, and one byte more than fits, so that a longer one is refused and not cut.
fn read_secret(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut secret = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 2));
    let most = SECRET_BYTES_MAX as u64 + 1;
    match file {
        Some(path) => {
            let wrong = |error: std::io::Error| CliError::usage(format!("{}: {error}", path.display()));
            std::fs::File::open(path).map_err(wrong)?.take(most).read_to_end(&mut secret).map_err(wrong)?;
        }
        None => {
            if std::io::stdin().is_terminal() {
                return Err(CliError::Usage {
                    message: "a secret that is typed would be shown".to_owned(),
                    hint: Some("pipe it in, or name its file with --file".to_owned()),
                });
            }
            std::io::stdin().lock().take(most).read_to_end(&mut secret)?;
        }
    }
    Ok(secret)
}
