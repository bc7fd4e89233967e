//! How a command ends: the stable exit codes, and what is said on standard error.

use crate::config::ConfigError;
use crate::http::Problem;
use std::process::ExitCode;

/// Stable exit codes of every verb; `task plan` alone has its own (0 nothing to do, 1 it would place, 255 error).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The command line or a parameter is wrong.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// The caller may not do this.
    Denied = 4,
    /// It conflicts with what is there.
    Conflict = 5,
    /// The node or a part of it is not available, or time ran out.
    Unavailable = 6,
    /// The command did its work; the task itself failed.
    TaskFailed = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The node answered with a problem.
    #[error("{}", problem_text(.0))]
    Problem(Box<Problem>),
    /// The node could not be reached.
    #[error("cannot reach the node at {addr}: {cause}")]
    Connect {
        /// Its URL.
        addr: String,
        /// What the network said.
        cause: String,
    },
    /// Time ran out.
    #[error("{what} took longer than {seconds} s")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The command line, a file or a parameter is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong and what was expected.
        message: String,
        /// The command to run instead, where it is known.
        hint: Option<String>,
    },
    /// Something named on the command line does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The task ended without success.
    #[error("{0}")]
    TaskFailed(String),
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another verb's own error, with its exit code.
    #[error("{message}")]
    Failed {
        /// What went wrong, with its causes.
        message: String,
        /// How the command ends.
        exit: Exit,
    },
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

fn problem_text(problem: &Problem) -> String {
    let mut text = problem.detail.clone();
    let plain = problem.field_errors.len() == 1 && problem.detail.contains(&problem.field_errors[0].message);
    for field in problem.field_errors.iter().filter(|_| !plain) {
        text.push_str(&format!("\n  `{}`: {}", field.field, field.message));
    }
    text
}

impl CliError {
    /// A wrong command line or file.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Another verb's error with all its causes in one line.
    pub fn failed(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut at = error.source();
        while let Some(cause) = at {
            message.push_str(&format!(": {cause}"));
            at = cause.source();
        }
        Self::Failed { message, exit }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Problem(problem) => match problem.status {
                400 => Exit::Usage,
                401 | 403 => Exit::Denied,
                404 | 410 => Exit::NotFound,
                409 | 412 => Exit::Conflict,
                429 | 503 | 507 => Exit::Unavailable,
                _ => Exit::Failed,
            },
            Self::Connect { .. } | Self::TimedOut { .. } => Exit::Unavailable,
            Self::Usage { .. } | Self::Config(_) => Exit::Usage,
            Self::NotFound(_) => Exit::NotFound,
            Self::TaskFailed(_) => Exit::TaskFailed,
            Self::Failed { exit, .. } => *exit,
            Self::Other(_) => Exit::Failed,
        }
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => {
                Some(format!("{} (code {}, trace {})", problem.hint, problem.code, problem.trace_id))
            }
            Self::Connect { .. } => {
                Some("is it running? `causeway doctor` looks; `causeway node --config FILE` starts it".to_owned())
            }
            Self::Usage { hint, .. } => hint.clone(),
            Self::Config(_) => Some("`causeway config print` lists all keys".to_owned()),
            _ => None,
        }
    }

    /// Whether standard output was closed by its reader, which is no error to talk about.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Other(error) => error.chain().any(|cause| {
                cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
            }),
            _ => false,
        }
    }
}
