//! One session with a vCenter: signs in, calls methods, signs in again where the session ended.

use super::config::Config;
use super::xml::{self, Element, escaped};
use crate::contract::AdapterError;
use crate::southbound::{Credentials, Endpoint, read_bounded};
use cpi::reason::ReasonCode;
use std::time::Duration;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// Why a method failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The vCenter's fault, by its type's name.
    Fault { name: String, text: String },
    /// No answer that makes sense.
    Down(String),
    /// Signing in.
    Refused(AdapterError),
}

impl CallError {
    pub(super) fn is(&self, fault: &str) -> bool {
        matches!(self, Self::Fault { name, .. } if name == fault)
    }
}

/// The vCenter's own objects, as its service content names them.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) root_folder: String,
    pub(super) property_collector: String,
    pub(super) view_manager: String,
    pub(super) search_index: String,
    session_manager: String,
    pub(super) about: String,
}

#[derive(Clone)]
struct Session {
    cookie: Zeroizing<String>,
    content: Content,
}

/// A vCenter.
pub(super) struct Soap {
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Credentials,
    config: Config,
    session: Mutex<Option<Session>>,
}

impl Soap {
    pub(super) fn new(config: Config, endpoint: Endpoint) -> Self {
        Self { endpoint, credentials: Credentials::default(), config, session: Mutex::new(None) }
    }

    /// The vCenter's own objects.
    pub(super) async fn content(&self) -> Result<Content, CallError> {
        Ok(self.session(None).await?.content)
    }

    /// A session that is not `ended`.
    async fn session(&self, ended: Option<&str>) -> Result<Session, CallError> {
        // one signs in, and the others wait for it
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| ended != Some(session.cookie.as_str())) {
            return Ok(session.clone());
        }
        let session = self.sign_in().await?;
        *held = Some(session.clone());
        Ok(session)
    }

    async fn sign_in(&self) -> Result<Session, CallError> {
        let asked = r#"<RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></RetrieveServiceContent>"#;
        let (answer, _) = self.post(asked, None).await?;
        let found = answer.child("returnval").ok_or_else(|| CallError::Down("no service content".to_owned()))?;
        let of = |name: &str| found.text_at(name).to_owned();
        let content = Content {
            root_folder: of("rootFolder"),
            property_collector: of("propertyCollector"),
            view_manager: of("viewManager"),
            search_index: of("searchIndex"),
            session_manager: of("sessionManager"),
            about: of("about.fullName"),
        };
        let secret = self.credentials.get(&self.config.credential).map_err(CallError::Refused)?;
        let password = std::str::from_utf8(secret.expose()).map_err(|_| {
            let why = format!("the credential {:?} is no text", self.config.credential);
            CallError::Refused(AdapterError::fatal(ReasonCode::NotPermitted, why))
        })?;
        let login = Zeroizing::new(format!(
            r#"<Login xmlns="urn:vim25"><_this type="SessionManager">{}</_this><userName>{}</userName><password>{}</password></Login>"#,
            escaped(&content.session_manager),
            escaped(&self.config.user),
            escaped(password.trim_end_matches(['\n', '\r'])),
        ));
        let (_, cookie) = self.post(&login, None).await?;
        let cookie = cookie.ok_or_else(|| CallError::Down("signing in gave no session".to_owned()))?;
        Ok(Session { cookie, content })
    }

    /// Calls a method; `make` makes its element for the vCenter's objects. Answers the response's element.
    pub(super) async fn call(&self, make: impl Fn(&Content) -> String) -> Result<Element, CallError> {
        let session = self.session(None).await?;
        match self.post(&make(&session.content), Some(&session.cookie)).await {
            Err(error) if error.is("NotAuthenticated") => {
                let session = self.session(Some(&session.cookie)).await?;
                self.post(&make(&session.content), Some(&session.cookie)).await.map(|(answer, _)| answer)
            }
            other => other.map(|(answer, _)| answer),
        }
    }

    async fn post(
        &self,
        method: &str,
        cookie: Option<&str>,
    ) -> Result<(Element, Option<Zeroizing<String>>), CallError> {
        let envelope = Zeroizing::new(format!(
            r#"<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soapenv:Body>{method}</soapenv:Body></soapenv:Envelope>"#
        ));
        let mut request = self
            .endpoint
            .http
            .post(self.endpoint.url.clone())
            .timeout(Duration::from_millis(self.config.request_ms))
            .header("content-type", "text/xml; charset=utf-8")
            .header("soapaction", "urn:vim25/6.5")
            .body(envelope.as_bytes().to_vec());
        if let Some(cookie) = cookie {
            let mut value = reqwest::header::HeaderValue::from_str(cookie)
                .map_err(|_| CallError::Down("the session cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header("cookie", value);
        }
        let answer = request.send().await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            CallError::Down(format!("no answer: {cause}"))
        })?;
        let status = answer.status();
        let set = answer.headers().get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
        let cookie = set
            .filter_map(|text| text.split(';').next())
            .find(|pair| pair.starts_with("vmware_soap_session="))
            .map(|pair| Zeroizing::new(pair.to_owned()));
        let body = read_bounded(answer, self.config.answer_bytes_max).await;
        let body = body.map_err(|problem| CallError::Down(problem.to_string()))?;
        let text = String::from_utf8(body).map_err(|_| CallError::Down("the answer is no UTF-8".to_owned()))?;
        let root = xml::parse(&text).map_err(|why| CallError::Down(format!("HTTP {}: {why}", status.as_u16())))?;
        let body = root.child("Body").ok_or_else(|| CallError::Down(format!("HTTP {}: no SOAP", status.as_u16())))?;
        if let Some(fault) = body.child("Fault") {
            return Err(fault_of(fault));
        }
        let answer = body.children.first().cloned();
        Ok((answer.ok_or_else(|| CallError::Down("an empty SOAP body".to_owned()))?, cookie))
    }
}

fn fault_of(fault: &Element) -> CallError {
    let detail = fault.child("detail").and_then(|detail| detail.children.first());
    let name = detail.map(|detail| {
        let typed = detail.attributes.get("type").map(|name| name.rsplit(':').next().unwrap_or(name).to_owned());
        typed.unwrap_or_else(|| detail.name.trim_end_matches("Fault").to_owned())
    });
    CallError::Fault {
        name: name.unwrap_or_else(|| "SystemError".to_owned()),
        text: fault.text_at("faultstring").to_owned(),
    }
}
