//! What a run may spend on endpoints: one budget for all that the writer is asked, and one for all that the judge is.

use std::sync::Arc;

use super::Run;
use crate::prompting::Record;
use crate::prompting::llm::Budget;

impl Run<'_> {
    /// The writer's. What earlier commands spent counts, as far as it is recorded in `prompts/`.
    pub(super) fn budget_of_writer(&self) -> Arc<Budget> {
        let limits = self.config.prompts.endpoint.limits();
        let open = || {
            let budget = Budget::new(limits);
            self.recorded().iter().for_each(|record| budget.add_recorded(record.usage()));
            Arc::new(budget)
        };
        self.budgets[0].get_or_init(open).clone()
    }

    /// The judge's, of this command.
    pub(super) fn budget_of_judge(&self) -> Arc<Budget> {
        let limits = self.config.judge.endpoint.limits();
        self.budgets[1].get_or_init(|| Arc::new(Budget::new(limits))).clone()
    }

    /// Every recorded reply; a line that another process is writing now is not one yet.
    fn recorded(&self) -> Vec<Record> {
        let entries = std::fs::read_dir(self.folder.path("prompts")).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        let recordings = files.filter(|path| path.to_string_lossy().ends_with(".replies.jsonl"));
        let texts: Vec<String> = recordings.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
