//! Lists in pages: `limit`, an opaque `page_token`, `next_page_token`.
//!
//! A token holds the place after which the next page begins and a digest of the list and its filter, so that it can't be
//! used for another list. The order is that of keys, which is stable while others write.

use super::problem::{ApiError, Code};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::{IntoParams, ToSchema};

/// Items in a page where the caller does not say.
pub const LIMIT_DEFAULT: usize = 50;
/// Items in a page at most.
pub const LIMIT_MAX: usize = 1000;

/// The parameters of every list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// Items in the page, 1 to 1000. Default 50.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub limit: Option<usize>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Names the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
    /// How many items there are in all, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// A checked request for a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// 1 to 1000.
    pub limit: usize,
    /// The key after which the page begins.
    pub after: Option<Vec<u8>>,
    list: [u8; 8],
}

impl PageRequest {
    /// Checks the parameters of a list; `list` names it together with its filter.
    ///
    /// # Errors
    /// [`ApiError`] naming the parameter.
    pub fn new(limit: Option<usize>, token: Option<&str>, list: &str) -> Result<Self, ApiError> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(ApiError::parameter("limit", format!("{limit} is out of range: expected 1 to {LIMIT_MAX}")));
        }
        let hash = Sha256::digest(list.as_bytes());
        let list: [u8; 8] = hash[..8].try_into().expect("a digest is longer than 8 bytes");
        let after = match token {
            None | Some("") => None,
            Some(token) => {
                let bytes = data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).ok();
                let wrong = || ApiError::new(Code::InvalidPageToken, "`page_token` was not given by this list");
                let bytes = bytes.filter(|bytes| bytes.len() <= 4096).ok_or_else(wrong)?;
                Some(bytes.strip_prefix(&list).ok_or_else(wrong)?.to_vec())
            }
        };
        Ok(Self { limit, after, list })
    }

    /// The key after which the page begins, as text.
    ///
    /// # Errors
    /// [`ApiError`] if the token holds no text.
    pub fn after_text(&self) -> Result<Option<String>, ApiError> {
        let wrong = |_| ApiError::new(Code::InvalidPageToken, "`page_token` was not given by this list");
        self.after.clone().map(String::from_utf8).transpose().map_err(wrong)
    }

    /// The token of the page that begins after `key`.
    pub fn token(&self, key: &[u8]) -> String {
        data_encoding::BASE64URL_NOPAD.encode(&[&self.list, key].concat())
    }

    /// A page of a list that is whole in memory and sorted by `key`.
    pub fn cut<T>(&self, all: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let total = Some(all.len() as u64);
        let after = self.after.clone().unwrap_or_default();
        let mut items: Vec<T> =
            all.into_iter().filter(|item| self.after.is_none() || key(item).into_bytes() > after).collect();
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let next_page_token = items.last().filter(|_| more).map(|last| self.token(key(last).as_bytes()));
        Page { items, next_page_token, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_a_list_once() {
        let all: Vec<String> = (0..10).map(|n| format!("{n:02}")).collect();
        let mut seen = Vec::new();
        let mut token = None;
        loop {
            let request = PageRequest::new(Some(4), token.as_deref(), "numbers").expect("valid");
            let page = request.cut(all.clone(), Clone::clone);
            seen.extend(page.items);
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_token_belongs_to_one_list() {
        let token = PageRequest::new(None, None, "tasks").expect("valid").token(b"k");
        assert!(PageRequest::new(None, Some(&token), "tasks").is_ok());
        for (token, list) in [(token.as_str(), "pools"), ("%%", "tasks"), ("AAAA", "tasks")] {
            let error = PageRequest::new(None, Some(token), list).expect_err("refused");
            assert_eq!(error.code, Code::InvalidPageToken);
        }
        for limit in [0, 1001] {
            assert_eq!(PageRequest::new(Some(limit), None, "x").expect_err("refused").code, Code::InvalidParameter);
        }
    }
}
