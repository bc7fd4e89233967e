//! Processes of a ring that are still there: nodes of an earlier lab, supervisors and runs.

use std::path::Path;

/// Whether `pid` is a node that was started with a configuration below `data`.
pub(super) fn is_node_of(pid: u32, data: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.contains("causeway") && line.contains("\0node\0") && line.contains(&*data.to_string_lossy())
}

/// Supervisors and runs whose folders lie below `data`.
pub(super) fn processes_of(data: &Path) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let me = std::process::id() as i32;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            let inside =
                std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| is_run_folder(&folder, data));
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            inside || (line.contains("run-supervisor") && line.contains(&*data.to_string_lossy()))
        })
        .collect()
}

/// `DATA/<region>/runs/...`
fn is_run_folder(folder: &Path, data: &Path) -> bool {
    folder.strip_prefix(data).is_ok_and(|rest| rest.components().nth(1).is_some_and(|part| part.as_os_str() == "runs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_runs_are_swept() {
        let data = Path::new("/srv/ring");
        assert!(is_run_folder(Path::new("/srv/ring/dalian/runs/x"), data));
        assert!(!is_run_folder(Path::new("/srv/ring/dalian"), data));
        assert!(!is_run_folder(Path::new("/srv/other/dalian/runs/x"), data));
    }
}
