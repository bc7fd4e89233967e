//! `[http]` of a rule file, as it is written.

use cpi::reason::ReasonCode;
use cpi::resource::Firmness;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpText {
    /// The API's address, for example `https://api.example.net`. A plugin's `url` goes before it.
    pub(super) base_url: Option<String>,
    #[serde(default)]
    pub(super) auth: AuthText,
    /// Headers of every request.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) patience: Patience,
    /// How sure the platform's capacity is once it was offered.
    #[serde(default = "estimate")]
    pub(super) firmness: Firmness,
    /// Whether it runs container images.
    #[serde(default)]
    pub(super) runs_images: bool,
    /// By verb; see [`VERBS`].
    pub(super) verb: BTreeMap<String, VerbText>,
    /// What answers other than success mean; the first that fits counts, before the defaults.
    #[serde(default)]
    pub(super) error: Vec<ErrorText>,
}

fn estimate() -> Firmness {
    Firmness::Estimate
}

/// All verbs there are: name, and whether it has to be there.
pub(super) const VERBS: &[(&str, bool)] = &[
    ("submit", true),
    ("lookup", false),
    ("status", false),
    ("list", true),
    ("logs", false),
    ("cancel", true),
    ("remove", true),
    ("renew", false),
    ("upload", false),
    ("output", false),
    ("health", false),
    ("classes", false),
    ("servers", false),
    ("volumes", false),
    ("reserve", false),
    ("unreserve", false),
    ("provision", false),
    ("machines", false),
    ("modify", false),
    ("power", false),
    ("release", false),
];

/// How long one waits for the platform, and how much of it one takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Patience {
    /// For one answer, in ms, 10 to 600,000. Default 5,000.
    pub(super) request_ms: u64,
    /// For one verb with its repetitions, in ms. Default 9,000: below what the host waits for a plugin's call.
    pub(super) verb_ms: u64,
    /// The largest answer in bytes. Default 4 MiB.
    pub(super) answer_bytes_max: usize,
    /// Requests under way at a time, 1 to 256. Default 8.
    pub(super) requests_max: usize,
    /// How often a request is repeated, 0 to 20. Default 5.
    pub(super) retries_max: u32,
    /// The first wait before a repetition, in ms; it doubles, with jitter. Default 100.
    pub(super) backoff_ms_min: u64,
    /// The longest one. Default 2,000.
    pub(super) backoff_ms_max: u64,
    /// The longest `Retry-After` that is heard, in ms. Default 60,000.
    pub(super) retry_after_ms_max: u64,
    /// Between two looks at all runs while some are under way, in ms. Default 2,000.
    pub(super) poll_ms: u64,
    /// Between two looks at servers that are followed, in ms. Default 5,000.
    pub(super) servers_poll_ms: u64,
    /// An answer about a run that is younger than this is not asked for again, in ms. Default 200.
    pub(super) fresh_ms: u64,
    /// Pages of one list. Default 1,000.
    pub(super) pages_max: u32,
    /// All inputs that travel inside a submission, in bytes. Default 1 MiB.
    pub(super) inline_bytes_max: u64,
    /// One output, in bytes. Default 1 GiB.
    pub(super) output_bytes_max: u64,
    /// A log of a platform that only gives it as a whole, in bytes. Default 16 MiB.
    pub(super) log_bytes_max: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request_ms: 5_000,
            verb_ms: 9_000,
            answer_bytes_max: 4 << 20,
            requests_max: 8,
            retries_max: 5,
            backoff_ms_min: 100,
            backoff_ms_max: 2_000,
            retry_after_ms_max: 60_000,
            poll_ms: 2_000,
            servers_poll_ms: 5_000,
            fresh_ms: 200,
            pages_max: 1_000,
            inline_bytes_max: 1 << 20,
            output_bytes_max: 1 << 30,
            log_bytes_max: 16 << 20,
        }
    }
}

/// How one signs in. Secrets are names of the vault.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum AuthText {
    /// Not at all.
    #[default]
    None,
    /// A header with a secret.
    Header {
        /// Its name. Default `authorization`.
        #[serde(default = "authorization")]
        header: String,
        /// In front of the secret, for example `"Bearer "`.
        #[serde(default)]
        prefix: String,
        /// The secret's name.
        credential: String,
    },
    /// HTTP Basic; the secret is `user:password`.
    Basic {
        /// The secret's name.
        credential: String,
    },
    /// A request gives a token for some time.
    Token(TokenText),
}

fn authorization() -> String {
    "authorization".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenText {
    /// Where it is asked for, below the base, as parts of a path.
    pub(super) path: Vec<String>,
    #[serde(default)]
    pub(super) encoding: Encoding,
    /// What is sent. In JSON a dotted name means a nested object.
    pub(super) fields: BTreeMap<String, SecretText>,
    /// Dotted path of the token in the answer.
    #[serde(default = "access_token")]
    pub(super) token: String,
    /// The header of the answer that has the token, instead of `token`.
    pub(super) token_header: Option<String>,
    /// Dotted path of the seconds that it is good for. Without such a field it is used until it is refused.
    #[serde(default = "expires_in")]
    pub(super) expires_s: String,
    /// It is renewed this much before its end, in s. Default 30, at most half of its life.
    #[serde(default = "thirty")]
    pub(super) early_s: u64,
    /// Dotted path of a refresh token in the answer.
    pub(super) refresh_token: Option<String>,
    /// What is sent to renew with it, beside the refresh token itself under `refresh_as`.
    #[serde(default)]
    pub(super) refresh_fields: BTreeMap<String, SecretText>,
    #[serde(default = "refresh_as")]
    pub(super) refresh_as: String,
    /// The header that carries it.
    #[serde(default = "authorization")]
    pub(super) header: String,
    #[serde(default = "bearer")]
    pub(super) prefix: String,
}

fn access_token() -> String {
    "access_token".to_owned()
}

fn expires_in() -> String {
    "expires_in".to_owned()
}

fn thirty() -> u64 {
    30
}

fn refresh_as() -> String {
    "refresh_token".to_owned()
}

fn bearer() -> String {
    "Bearer ".to_owned()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    #[default]
    Form,
    Json,
}

/// A text, or a secret of the vault.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum SecretText {
    Text(String),
    Secret(SecretName),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretName {
    pub(super) credential: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerbText {
    pub(super) method: String,
    /// Whether the same request twice is as good as once. Default: yes, but for POST and PATCH.
    pub(super) repeatable: Option<bool>,
    /// CEL over `body`: the list of items of a page.
    pub(super) items: Option<String>,
    /// CEL over `body` and `page` (counts from 1): query parameters of the next page, or null after the last.
    pub(super) next: Option<String>,
    /// CEL over `item`: whether it is one of ours. Others are skipped before any rule sees them.
    pub(super) ours: Option<String>,
    /// For logs: CEL over `body`, the text. Without it the answer itself is the log.
    pub(super) text: Option<String>,
    /// For logs: whether the platform takes an offset and a length. Otherwise the whole log is read and cut here.
    #[serde(default)]
    pub(super) ranged: bool,
    /// For logs: the streams that the platform tells apart. Others are empty.
    pub(super) streams: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorText {
    /// HTTP statuses. Default: all from 400.
    #[serde(default)]
    pub(super) status: Vec<u16>,
    /// Verbs. Default: all.
    #[serde(default)]
    pub(super) verbs: Vec<String>,
    /// CEL over `status` and `body` (null where it is no JSON). What cannot be computed does not fit.
    pub(super) when: Option<String>,
    #[serde(default)]
    pub(super) means: Means,
    /// For a fault: the reason.
    pub(super) code: Option<ReasonCode>,
    /// For a fault: whether asking again may help. Default: as the reason says.
    pub(super) retryable: Option<bool>,
    /// For a fault: CEL over `status` and `body`, what is shown.
    pub(super) detail: Option<String>,
}

/// What an answer means that is no success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Means {
    /// It went wrong.
    #[default]
    Fault,
    /// There is no such thing.
    Absent,
    /// It is already as it was to become.
    Done,
}
