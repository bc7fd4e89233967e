//! `member`: who is in the federation, and how somebody gets in or out.

use super::client::encode;
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, print, wide};
use super::{Context, ListArgs, confirm};
use clap::Subcommand;
use serde_json::json;

const COLUMNS: &[Column] = &[
    column("MEMBER", "id|member", Kind::Text),
    column("REGION", "region", Kind::Text),
    column("STATE", "state", Kind::Text),
    column("ROLE", "role", Kind::Text),
    column("CITY", "city", Kind::Text),
    wide("COUNTRY", "country", Kind::Text),
    column("PEER", "connection", Kind::Text),
    column("RTT", "rtt_ms", Kind::Millis),
    column("SEEN", "last_seen", Kind::Age),
    wide("ENTERPRISES", "enterprise_codes|enterprises", Kind::Text),
    wide("ADDRESSES", "addresses", Kind::Text),
    wide("APPROVALS", "approvals.have", Kind::Text),
    wide("OF", "approvals.need", Kind::Text),
];

const POLICY: &[Column] = &[
    column("ADMISSION APPROVALS", "admission_approvals", Kind::Text),
    column("VOTERS", "voters", Kind::Text),
    column("REVISION", "revision", Kind::Text),
];

/// Verbs of members.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// All members, with the round trips measured from this node.
    List {
        /// Only regions that asked to join and wait for approval, at any member.
        #[arg(long)]
        pending: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// One member.
    Get {
        /// Member id or region.
        member: String,
    },
    /// The ring: members in the order of the hash of their ids, with measured round trips.
    Ring,
    /// Makes an invitation token for a region that wants to join.
    #[command(
        after_help = "Example:\n  causeway member invite --region shenzhen --enterprise 91110108MA01ABCD12 > token"
    )]
    Invite {
        /// The region's name.
        #[arg(long = "for", value_name = "REGION")]
        region: Option<String>,
        /// Enterprise codes that it may register under.
        #[arg(long = "enterprise", value_name = "CODE")]
        enterprises: Vec<String>,
        /// How long the token is good.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::duration)]
        ttl: std::time::Duration,
    },
    /// Joins the federation that a token invites to. Run it on the new region's machine, before its node.
    Join(super::daemon::JoinArgs),
    /// Approves a region that asked to join with an invitation. Where the policy wants several approvals, each of so many
    /// members does this at its own node.
    Approve {
        /// Member id or region.
        member: String,
    },
    /// What all members agreed on; with an option, changes it.
    #[command(after_help = "Example:\n  causeway member policy --admission-approvals 2")]
    Policy {
        /// Members that must approve an admission, 1 to 64. The invitation is the inviter's approval.
        #[arg(long, value_name = "N")]
        admission_approvals: Option<u32>,
        /// Voters of the registry: 1, 3, 5 or 7.
        #[arg(long, value_name = "N")]
        voters: Option<u32>,
    },
    /// Suspends a member: its region gets no new work and may not write.
    Suspend {
        /// Member id or region.
        member: String,
        /// Why, for the audit.
        #[arg(long)]
        reason: Option<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Ends a suspension.
    Resume {
        /// Member id or region.
        member: String,
    },
    /// Expels a member for good.
    Expel {
        /// Member id or region.
        member: String,
        /// Why, for the audit.
        #[arg(long)]
        reason: Option<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// Runs a verb.
pub async fn run(command: MemberCommand, context: &Context) -> Result<Exit, CliError> {
    let client = context.client()?;
    let output = &context.output;
    match command {
        MemberCommand::List { pending, list } => {
            let mut query = list.query();
            query.push(("state", pending.then(|| "waiting".to_owned())));
            let page = client.list("/v1/members", query, list.all).await?;
            output.list(&page, COLUMNS, "id")?;
        }
        MemberCommand::Get { member } => {
            let answer = client.get(&format!("/v1/members/{}", encode(&member)), Vec::new()).await?;
            output.one(&answer, COLUMNS, "id")?;
        }
        MemberCommand::Ring => {
            let answer = client.get("/v1/ring", Vec::new()).await?;
            output.list(&answer, COLUMNS, "id")?;
        }
        MemberCommand::Invite { region, enterprises, ttl } => {
            let body = json!({ "region": region, "enterprises": enterprises, "ttl_s": ttl.as_secs() });
            let answer = client.post("/v1/members/invitations", body).await?;
            match (output.format, answer["token"].as_str()) {
                (super::Format::Table | super::Format::Wide | super::Format::Name, Some(token)) => {
                    print(&format!("{token}\n"))?;
                }
                _ => print(&output.document(&answer)?)?,
            }
            output.next("on the new region's machine: causeway member join TOKEN");
        }
        MemberCommand::Join(arguments) => return super::daemon::join_async(&arguments, context).await,
        MemberCommand::Approve { member } => act(context, &client, &member, "approve", None).await?,
        MemberCommand::Policy { admission_approvals, voters } => {
            let answer = if admission_approvals.is_none() && voters.is_none() {
                client.get("/v1/policy", Vec::new()).await?
            } else {
                let body = json!({ "admission_approvals": admission_approvals, "voters": voters });
                let extra = super::client::Extra { body: Some(body), ..super::client::Extra::default() };
                client.call(reqwest::Method::PATCH, "/v1/policy", extra).await?
            };
            output.one(&answer, POLICY, "revision")?;
        }
        MemberCommand::Resume { member } => act(context, &client, &member, "resume", None).await?,
        MemberCommand::Suspend { member, reason, yes } => {
            confirm(&format!("suspend {member}"), yes)?;
            act(context, &client, &member, "suspend", reason).await?;
        }
        MemberCommand::Expel { member, reason, yes } => {
            confirm(&format!("expel {member} for good"), yes)?;
            act(context, &client, &member, "expel", reason).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn act(
    context: &Context,
    client: &super::Client,
    member: &str,
    verb: &str,
    reason: Option<String>,
) -> Result<(), CliError> {
    let body = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
    let answer = client.post(&format!("/v1/members/{}/{verb}", encode(member)), body).await?;
    context.output.one(&answer, COLUMNS, "id")
}
