//! Signs in. Tokens live in memory only, are renewed before their end, and asked for anew where they are refused or where
//! the secrets they were made of changed.

use super::client::{Failure, Retry};
use super::fault::shown;
use super::file::{AuthText, Encoding, SecretText, TokenText};
use crate::contract::AdapterError;
use crate::southbound::{Credentials, Endpoint, read_bounded};
use cpi::reason::ReasonCode;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The longest answer with a token.
const TOKEN_ANSWER_BYTES_MAX: usize = 64 << 10;

struct Token {
    value: Zeroizing<String>,
    refresh: Option<Zeroizing<String>>,
    until: Option<Instant>,
    /// Of the secrets it was made of.
    made_of: [u8; 32],
    number: u64,
}

/// One platform's sign-in.
#[derive(Default)]
pub(super) struct SignIn {
    token: tokio::sync::Mutex<(Option<Token>, u64)>,
}

/// A header that signs a request, and the number of the token in it.
pub(super) type Signed = (HeaderName, HeaderValue, u64);

fn permitted(why: impl Into<String>) -> AdapterError {
    AdapterError::fatal(ReasonCode::NotPermitted, why)
}

fn text_of(name: &str, credentials: &Credentials) -> Result<Zeroizing<String>, AdapterError> {
    let secret = credentials.get(name)?;
    let text =
        std::str::from_utf8(secret.expose()).map_err(|_| permitted(format!("the credential {name:?} is no text")))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
}

fn header(name: &str, prefix: &str, value: &str, number: u64) -> Result<Signed, AdapterError> {
    let wrong = || permitted(format!("the secret cannot stand in the header {name:?}"));
    let text = Zeroizing::new(format!("{prefix}{value}"));
    let mut value = HeaderValue::from_str(&text).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((HeaderName::try_from(name).map_err(|_| wrong())?, value, number))
}

impl SignIn {
    /// What signs the next request.
    pub(super) async fn sign(
        &self,
        auth: &AuthText,
        endpoint: &Endpoint,
        credentials: &Credentials,
        patience: Duration,
    ) -> Result<Option<Signed>, Failure> {
        match auth {
            AuthText::None => Ok(None),
            AuthText::Header { header: name, prefix, credential } => {
                Ok(Some(header(name, prefix, &text_of(credential, credentials)?, 0)?))
            }
            AuthText::Basic { credential } => {
                let pair = text_of(credential, credentials)?;
                let encoded = Zeroizing::new(data_encoding::BASE64.encode(pair.as_bytes()));
                Ok(Some(header("authorization", "Basic ", &encoded, 0)?))
            }
            AuthText::Token(how) => {
                let (fields, made_of) = fields_of(&how.fields, credentials)?;
                // one asks, and the others wait for its answer
                let mut held = self.token.lock().await;
                let now = Instant::now();
                let fresh = |token: &Token| token.made_of == made_of && token.until.is_none_or(|until| now < until);
                if !held.0.as_ref().is_some_and(fresh) {
                    held.1 += 1;
                    let number = held.1;
                    let old = held.0.take().filter(|token| token.made_of == made_of);
                    let refreshed = match old.and_then(|token| token.refresh) {
                        Some(refresh) => {
                            let (mut fields, _) = fields_of(&how.refresh_fields, credentials)?;
                            fields.insert(how.refresh_as.clone(), refresh);
                            ask(how, fields, endpoint, patience).await.ok()
                        }
                        None => None,
                    };
                    let (value, refresh, until) = match refreshed {
                        Some(answer) => answer,
                        None => ask(how, fields, endpoint, patience).await?,
                    };
                    held.0 = Some(Token { value, refresh, until, made_of, number });
                }
                let token = held.0.as_ref().expect("it was put there a moment ago, or was there");
                Ok(Some(header(&how.header, &how.prefix, &token.value, token.number)?))
            }
        }
    }

    /// The token `number` was refused: whoever comes next signs in anew. `false` where there is nothing to sign in with.
    pub(super) async fn refused(&self, number: u64) -> bool {
        let mut held = self.token.lock().await;
        if held.0.as_ref().is_some_and(|token| token.number == number) {
            held.0 = None;
        }
        number > 0
    }
}

type Fields = BTreeMap<String, Zeroizing<String>>;

fn fields_of(
    texts: &BTreeMap<String, SecretText>,
    credentials: &Credentials,
) -> Result<(Fields, [u8; 32]), AdapterError> {
    let mut hash = Sha256::new();
    let mut fields = Fields::new();
    for (name, text) in texts {
        let value = match text {
            SecretText::Text(text) => Zeroizing::new(text.clone()),
            SecretText::Secret(secret) => text_of(&secret.credential, credentials)?,
        };
        hash.update((value.len() as u64).to_be_bytes());
        hash.update(value.as_bytes());
        fields.insert(name.clone(), value);
    }
    Ok((fields, hash.finalize().into()))
}

fn at<'a>(answer: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(answer, |value, step| value.get(step))
}

type Answer = (Zeroizing<String>, Option<Zeroizing<String>>, Option<Instant>);

async fn ask(how: &TokenText, fields: Fields, endpoint: &Endpoint, patience: Duration) -> Result<Answer, Failure> {
    let mut url = endpoint.url.clone();
    url.path_segments_mut().map_err(|()| permitted("the address has no path"))?.pop_if_empty().extend(&how.path);
    let (kind, body) = match how.encoding {
        Encoding::Form => ("application/x-www-form-urlencoded", form(&fields)),
        Encoding::Json => ("application/json", json(&fields)?),
    };
    let request = endpoint.http.post(url).timeout(patience).header("content-type", kind).body(body.as_bytes().to_vec());
    let down = |why: String| Failure {
        error: AdapterError::passing(ReasonCode::AdapterDown, format!("sign-in: {why}")),
        retry: Retry::NotDone,
        after: None,
        unauthorized: None,
    };
    let began = Instant::now();
    let answer = request.send().await.map_err(|error| down(super::client::network(&error)))?;
    let status = answer.status();
    let told = how.token_header.as_ref().and_then(|name| answer.headers().get(name)).cloned();
    let after = super::client::retry_after(answer.headers());
    let body = read_bounded(answer, TOKEN_ANSWER_BYTES_MAX).await.map_err(|problem| down(problem.to_string()))?;
    let body = Zeroizing::new(body);
    if matches!(status.as_u16(), 400 | 401 | 403) {
        // the answer is shown, as it says which part is wrong; it holds no token
        let said = shown(&String::from_utf8_lossy(&body[..body.len().min(600)]));
        return Err(permitted(format!("sign-in: HTTP {}: {said}", status.as_u16())).into());
    }
    if !status.is_success() {
        return Err(Failure { after, ..down(format!("HTTP {}", status.as_u16())) });
    }
    let json: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let token = match (&how.token_header, told) {
        (Some(_), told) => told.and_then(|value| value.to_str().ok().map(str::to_owned)),
        (None, _) => at(&json, &how.token).and_then(Value::as_str).map(str::to_owned),
    };
    let token = token.filter(|token| !token.is_empty()).map(Zeroizing::new).ok_or_else(|| {
        let place = how.token_header.as_ref().unwrap_or(&how.token);
        down(format!("the answer has no token at {place:?}"))
    })?;
    let life =
        at(&json, &how.expires_s).and_then(Value::as_u64).map(|seconds| Duration::from_secs(seconds.min(31_536_000)));
    let until = life.map(|life| began + life - Duration::from_secs(how.early_s).min(life / 2));
    let refresh = how.refresh_token.as_ref().and_then(|path| at(&json, path)).and_then(Value::as_str);
    Ok((token, refresh.map(|text| Zeroizing::new(text.to_owned())), until))
}

fn form(fields: &Fields) -> Zeroizing<String> {
    let mut url = reqwest::Url::parse("form:").expect("a scheme alone is an address");
    url.query_pairs_mut().extend_pairs(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    Zeroizing::new(url.query().unwrap_or_default().to_owned())
}

fn json(fields: &Fields) -> Result<Zeroizing<String>, AdapterError> {
    let mut whole = Map::new();
    for (name, value) in fields {
        let mut place = &mut whole;
        let (path, last) = name.rsplit_once('.').map_or((None, name.as_str()), |(path, last)| (Some(path), last));
        for step in path.into_iter().flat_map(|path| path.split('.')) {
            let below = place.entry(step.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            place = below
                .as_object_mut()
                .ok_or_else(|| permitted(format!("[http.auth] fields: {name} is below a text")))?;
        }
        place.insert(last.to_owned(), Value::String(value.to_string()));
    }
    Ok(Zeroizing::new(Value::Object(whole).to_string()))
}
