//! Lists of tasks in pages, newest first.

use super::task_error::TaskError;
use super::task_views::{TaskPage, TaskQuery, TaskView};
use super::tasks::TaskService;
use consensus::negotiation::TaskState;
use cpi::ids::TaskId;

/// Tasks looked at for one page at most, where a name, a principal or a region leaves most of them out. Such a page may be
/// short and have a next one.
const LOOKED_AT_MAX: usize = 5_000;
/// Tasks looked at in one go there.
const LOOKED_AT_ONCE: usize = 250;

impl TaskService {
    /// A page of tasks, newest first. How many there are in all is told where nothing but the state chooses.
    ///
    /// # Errors
    /// [`TaskError::PageToken`], [`TaskError::State`].
    pub fn list(&self, query: &TaskQuery) -> Result<TaskPage, TaskError> {
        let limit = query.limit.unwrap_or(50).clamp(1, 1000) as usize;
        let token = query.page_token.as_deref().map(str::parse::<TaskId>).transpose();
        let mut before = token.map_err(|_| TaskError::PageToken)?;
        let wanted = states(query.state.as_deref())?;
        let wanted = |state: TaskState| wanted.contains(&state);
        let narrow = query.principal.is_some() || query.name.is_some() || query.region.is_some();
        let total = (!narrow).then(|| self.board().count(wanted) as u64);
        let mut page = TaskPage { tasks: Vec::new(), total, next_page_token: None };
        let mut looked_at = 0;
        loop {
            let chunk = if narrow { LOOKED_AT_ONCE } else { limit + 1 };
            let tasks = self.board().tasks_before(wanted, before, chunk)?;
            let last_chunk = tasks.len() < chunk;
            for task in tasks {
                if page.tasks.len() == limit {
                    page.next_page_token = before.map(|id| id.to_string());
                    return Ok(page);
                }
                // a page begins below the last task that was looked at
                before = Some(task.record.task);
                looked_at += 1;
                let view = self.view(&task);
                if matches(query, &view) {
                    page.tasks.push(view);
                }
            }
            if last_chunk {
                return Ok(page);
            }
            if looked_at >= LOOKED_AT_MAX {
                page.next_page_token = before.map(|id| id.to_string());
                return Ok(page);
            }
        }
    }
}

const ALL: [TaskState; 8] = [
    TaskState::Pending,
    TaskState::Placing,
    TaskState::Staging,
    TaskState::Running,
    TaskState::Finishing,
    TaskState::Succeeded,
    TaskState::Failed,
    TaskState::Cancelled,
];

/// The states that a query means: one by its name, `open`, `ended`, or all.
fn states(name: Option<&str>) -> Result<Vec<TaskState>, TaskError> {
    let chosen: Vec<TaskState> = match name {
        None => ALL.to_vec(),
        Some("open") => ALL.into_iter().filter(|state| !state.is_ended()).collect(),
        Some("ended") => ALL.into_iter().filter(|state| state.is_ended()).collect(),
        Some(name) => ALL.into_iter().filter(|state| state.as_str() == name).collect(),
    };
    match name {
        Some(name) if chosen.is_empty() => Err(TaskError::State { state: name.to_owned() }),
        _ => Ok(chosen),
    }
}

fn matches(query: &TaskQuery, task: &TaskView) -> bool {
    query.principal.as_ref().is_none_or(|p| *p == task.principal)
        && query.name.as_ref().is_none_or(|n| task.name.starts_with(n.as_str()))
        && query.region.as_ref().is_none_or(|r| task.place.as_ref().is_some_and(|p| p.region == *r))
}
