//! What the job showed, as one table.

use super::job::TaskStory;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// The tasks: the figures as one table, the decision beside the round trip that no protocol can beat; below it why each ran
/// where it did, and what its check found.
pub fn stories(stories: &[TaskStory]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_NO_BORDERS).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "task",
        "ran in (region / pool / class)",
        "round trip",
        "decided in",
        "ran for",
        "result here after",
        "check",
    ]);
    for story in stories {
        let ms = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| format!("{value} ms"));
        let place = if story.placed_right { story.place.clone() } else { format!("{} (WRONG REGION)", story.place) };
        table.add_row([
            story.name.clone(),
            place,
            format!("{:.1} ms", story.rtt_ms),
            ms(story.decided_ms),
            ms(story.wall_ms),
            format!("{:.1} s", story.here_after_s),
            if story.verdict.is_ok() { "right".to_owned() } else { "FAILED".to_owned() },
        ]);
    }
    for column in 2..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = format!("{table}\n");
    for story in stories {
        let check = match &story.verdict {
            Ok(verdict) => &verdict.fact,
            Err(problem) => problem,
        };
        out.push_str(&format!("{} ({})\n  why there: {}\n  check:     {check}\n", story.name, story.id, story.why));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_region_and_a_failed_check_stand_out() {
        let story = TaskStory {
            name: "lu-fp64".to_owned(),
            id: "x".to_owned(),
            place: "beijing / general / xeon-112".to_owned(),
            placed_right: false,
            why: String::new(),
            decided_ms: None,
            rtt_ms: 28.3,
            wall_ms: Some(1700),
            here_after_s: 3.25,
            verdict: Err("the scaled residual is 1e9".to_owned()),
        };
        assert!(!story.holds());
        let text = stories(&[story]);
        assert!(text.contains("WRONG REGION") && text.contains("FAILED") && text.contains("28.3 ms"), "{text}");
    }
}
