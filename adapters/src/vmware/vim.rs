//! The methods of vim25 that are needed.

use super::soap::{CallError, Soap};
use super::xml::{Element, escaped};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Objects of one page.
const PAGE: u32 = 200;
/// Objects of one list.
const OBJECTS_MAX: usize = 100_000;

/// A managed object with some of its properties.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) id: String,
    pub(super) properties: BTreeMap<String, Element>,
}

impl Object {
    pub(super) fn text(&self, name: &str) -> &str {
        self.properties.get(name).map_or("", |value| value.text.as_str())
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }
}

fn objects_of(answer: &Element) -> (Vec<Object>, Option<String>) {
    let Some(result) = answer.child("returnval") else { return (Vec::new(), None) };
    let object = |element: &Element| Object {
        id: element.text_at("obj").to_owned(),
        properties: element
            .all("propSet")
            .filter_map(|set| Some((set.text_at("name").to_owned(), set.child("val")?.clone())))
            .collect(),
    };
    let token = result.child("token").map(|token| token.text.clone());
    (result.all("objects").map(object).collect(), token)
}

fn paths(kind: &str, properties: &[&str]) -> String {
    let paths: String = properties.iter().map(|path| format!("<pathSet>{path}</pathSet>")).collect();
    format!("<propSet><type>{kind}</type>{paths}</propSet>")
}

impl Soap {
    /// All objects of a kind, page by page.
    pub(super) async fn all(&self, kind: &str, properties: &[&str]) -> Result<Vec<Object>, CallError> {
        let made = self
            .call(|content| {
                format!(
                    r#"<CreateContainerView xmlns="urn:vim25"><_this type="ViewManager">{}</_this><container type="Folder">{}</container><type>{kind}</type><recursive>true</recursive></CreateContainerView>"#,
                    content.view_manager, content.root_folder
                )
            })
            .await?;
        let view = escaped(made.text_at("returnval"));
        let listed = self.pages(&view, &paths(kind, properties)).await;
        let _ = self
            .call(|_| {
                format!(r#"<DestroyView xmlns="urn:vim25"><_this type="ContainerView">{view}</_this></DestroyView>"#)
            })
            .await;
        listed
    }

    async fn pages(&self, view: &str, paths: &str) -> Result<Vec<Object>, CallError> {
        let mut answer = self
            .call(|content| {
                format!(
                    r#"<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">{}</_this><specSet>{paths}<objectSet><obj type="ContainerView">{view}</obj><skip>true</skip><selectSet xsi:type="TraversalSpec"><name>view</name><type>ContainerView</type><path>view</path><skip>false</skip></selectSet></objectSet></specSet><options><maxObjects>{PAGE}</maxObjects></options></RetrievePropertiesEx>"#,
                    content.property_collector
                )
            })
            .await?;
        let mut all = Vec::new();
        loop {
            let (objects, token) = objects_of(&answer);
            all.extend(objects);
            let Some(token) = token else { return Ok(all) };
            if all.len() > OBJECTS_MAX {
                return Err(CallError::Down(format!("it lists more than {OBJECTS_MAX} objects")));
            }
            answer = self
                .call(|content| {
                    format!(
                        r#"<ContinueRetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">{}</_this><token>{}</token></ContinueRetrievePropertiesEx>"#,
                        content.property_collector,
                        escaped(&token)
                    )
                })
                .await?;
        }
    }

    /// Properties of one object; `None` where it is gone.
    pub(super) async fn one(&self, kind: &str, id: &str, properties: &[&str]) -> Result<Option<Object>, CallError> {
        let paths = paths(kind, properties);
        let answer = self
            .call(|content| {
                format!(
                    r#"<RetrievePropertiesEx xmlns="urn:vim25"><_this type="PropertyCollector">{}</_this><specSet>{paths}<objectSet><obj type="{kind}">{}</obj></objectSet></specSet><options/></RetrievePropertiesEx>"#,
                    content.property_collector,
                    escaped(id)
                )
            })
            .await;
        match answer {
            Ok(answer) => Ok(objects_of(&answer).0.into_iter().next()),
            Err(error) if error.is("ManagedObjectNotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The machine with this instance UUID.
    pub(super) async fn by_uuid(&self, uuid: &str) -> Result<Option<String>, CallError> {
        let answer = self
            .call(|content| {
                format!(
                    r#"<FindByUuid xmlns="urn:vim25"><_this type="SearchIndex">{}</_this><uuid>{uuid}</uuid><vmSearch>true</vmSearch><instanceUuid>true</instanceUuid></FindByUuid>"#,
                    content.search_index
                )
            })
            .await?;
        Ok(answer.child("returnval").map(|found| found.text.clone()))
    }

    /// Calls a method of a machine that makes a task, and waits for its end.
    pub(super) async fn task(
        &self,
        method: &str,
        machine: &str,
        arguments: &str,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let machine = escaped(machine);
        let answer = self
            .call(|_| {
                format!(r#"<{method} xmlns="urn:vim25"><_this type="VirtualMachine">{machine}</_this>{arguments}</{method}>"#)
            })
            .await?;
        let task = answer.text_at("returnval").to_owned();
        let mut wait = Duration::from_millis(20);
        loop {
            let found = self.one("Task", &task, &["info"]).await?;
            let found = found.ok_or_else(|| CallError::Down(format!("{method}: its task is gone")))?;
            let info = found.properties.get("info").cloned().unwrap_or_default();
            match info.text_at("state") {
                "success" => return Ok(()),
                "error" => {
                    let fault = info.child("error").and_then(|error| error.child("fault"));
                    let name = fault
                        .and_then(|fault| fault.attributes.get("type"))
                        .map(|name| name.rsplit(':').next().unwrap_or(name).to_owned());
                    let text = info.text_at("error.localizedMessage").to_owned();
                    return Err(CallError::Fault { name: name.unwrap_or_else(|| "SystemError".to_owned()), text });
                }
                _ if Instant::now() + wait >= deadline => {
                    return Err(CallError::Down(format!("{method}: its task has not ended yet")));
                }
                _ => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    }
}

/// `extraConfig` of a specification.
pub(super) fn extra<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pair = |(key, value): (&str, &str)| {
        format!(
            r#"<extraConfig xsi:type="OptionValue"><key>{key}</key><value xsi:type="xsd:string">{}</value></extraConfig>"#,
            escaped(value)
        )
    };
    pairs.into_iter().map(pair).collect()
}
