//! `member`: who is in the federation, and how somebody gets in or out.

use super::client::encode;
use super::exit::{CliError, Exit};
use super::output::{Column, Kind, column, print, wide};
use super::{Context, ListArgs, confirm};
use clap::Subcommand;
use serde_json::{Value, json};

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
    wide("REQUEST", "request", Kind::Text),
];

const POLICY: &[Column] = &[
    column("ADMISSION APPROVALS", "admission_approvals", Kind::Text),
    column("VOTERS", "voters", Kind::Text),
    column("LEARNERS", "learners", Kind::Text),
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
    /// Approves a region that asked to join with an invitation: exactly one request, which the answer shows. Where the policy
    /// wants several approvals, each of so many members does this at its own node.
    Approve {
        /// Region.
        region: String,
        /// Which request, where several wait under this name: the first digits are enough (`member list --pending -o wide`).
        #[arg(long, value_name = "DIGEST")]
        request: Option<String>,
    },
    /// What all members agreed on; with an option, votes for a change. Where the policy wants several votes, each of so many
    /// members does this at its own node.
    #[command(after_help = "Example:\n  causeway member policy --admission-approvals 2")]
    Policy {
        /// Members that must approve an admission, and vote for an expulsion, a suspension, its end or another policy: 1 to
        /// 64. The invitation is the inviter's approval.
        #[arg(long, value_name = "N")]
        admission_approvals: Option<u32>,
        /// Voters of the registry: 1, 3, 5 or 7.
        #[arg(long, value_name = "N")]
        voters: Option<u32>,
        /// Learners that stand by for them, 0 to 8. All other members follow: they pull what is committed.
        #[arg(long, value_name = "N")]
        learners: Option<u32>,
    },
    /// Votes to suspend a member: its region gets no new work and may not write.
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
    /// Votes to end a suspension.
    Resume {
        /// Member id or region.
        member: String,
    },
    /// Votes to expel a member for good. Where the policy wants several votes, each of so many members does this at its own
    /// node; with the last one it is out, also where the registry cannot be reached.
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
        MemberCommand::Approve { region, request } => approve(context, &client, &region, request.as_deref()).await?,
        MemberCommand::Policy { admission_approvals, voters, learners } => {
            let answer = if admission_approvals.is_none() && voters.is_none() && learners.is_none() {
                client.get("/v1/policy", Vec::new()).await?
            } else {
                let body =
                    json!({ "admission_approvals": admission_approvals, "voters": voters, "learners": learners });
                let extra = super::client::Extra { body: Some(body), ..super::client::Extra::default() };
                client.call(reqwest::Method::PATCH, "/v1/policy", extra).await?
            };
            output.one(&answer, POLICY, "revision")?;
            for proposed in answer["proposed"].as_array().into_iter().flatten() {
                output.say(missing("another policy", proposed, "causeway member policy with the same options"));
            }
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
    context.output.one(&answer, COLUMNS, "id")?;
    for motion in answer["motions"].as_array().into_iter().flatten() {
        let command = match motion["standing"].as_str() {
            Some("expelled") => format!("causeway member expel {member}"),
            Some("suspended") => format!("causeway member suspend {member}"),
            _ => format!("causeway member resume {member}"),
        };
        let what = format!("{member} {}", motion["standing"].as_str().unwrap_or_default());
        context.output.say(missing(&what, motion, &command));
    }
    Ok(())
}

/// What a vote or an approval still lacks, and how it gets it.
fn missing(what: &str, tally: &Value, command: &str) -> String {
    let (have, need) = (tally["have"].as_u64().unwrap_or(0), tally["need"].as_u64().unwrap_or(0));
    match need.saturating_sub(have) {
        0 => format!("{what}: {have} of {need} members agreed; the registry follows once it has a quorum"),
        1 => format!("{what}: {have} of {need} members agreed; 1 is missing, at its own node: {command}"),
        more => format!("{what}: {have} of {need} members agreed; {more} are missing, each at its own node: {command}"),
    }
}

/// Approves the one request that waits under this name, or the one that is meant.
async fn approve(
    context: &Context,
    client: &super::Client,
    region: &str,
    request: Option<&str>,
) -> Result<(), CliError> {
    let page = client.list("/v1/members", vec![("state", Some("waiting".to_owned()))], true).await?;
    let wanted = request.map(str::to_lowercase);
    let of = |item: &&Value| item["region"] == region;
    let is = |item: &&Value| {
        let digest = item["request"].as_str().unwrap_or_default();
        wanted.as_deref().is_none_or(|wanted| digest.starts_with(wanted))
    };
    let waiting: Vec<&Value> = page["items"].as_array().into_iter().flatten().filter(of).filter(is).collect();
    let found = match waiting.as_slice() {
        [one] => one["request"].as_str().unwrap_or_default(),
        [] => {
            // admitted by the invitation alone, or by the approvals of others
            let answer = client.get(&format!("/v1/members/{}", encode(region)), Vec::new()).await?;
            if answer["state"] == "waiting" {
                return Err(CliError::usage(format!(
                    "no request of {region} begins with {}",
                    request.unwrap_or_default()
                )));
            }
            return context.output.one(&answer, COLUMNS, "id");
        }
        several => {
            let line = |item: &&Value| format!("\n  --request {}", item["request"].as_str().unwrap_or_default());
            let list: String = several.iter().map(line).collect();
            return Err(CliError::usage(format!(
                "{} requests wait under the name {region}; say which:{list}",
                several.len()
            )));
        }
    };
    let answer = client.post(&format!("/v1/members/{}/approve", encode(region)), json!({ "request": found })).await?;
    context.output.one(&answer, COLUMNS, "id")?;
    if answer["state"] == "waiting" {
        context.output.say(missing(region, &answer["approvals"], &format!("causeway member approve {region}")));
    }
    Ok(())
}
