//! The variables of a stage.

use std::collections::HashMap;

use crate::expand::Lookup;

/// Variables in the order of their last assignment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    values: HashMap<String, (usize, String)>,
    assignments: usize,
}

impl Variables {
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.assignments += 1;
        self.values.insert(name.to_owned(), (self.assignments, value.to_owned()));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Name and value, in order.
    pub(crate) fn in_order(&self) -> Vec<(String, String)> {
        let mut all: Vec<(&String, &(usize, String))> = self.values.iter().collect();
        all.sort_by_key(|(_, (order, _))| *order);
        all.into_iter().map(|(name, (_, value))| (name.clone(), value.clone())).collect()
    }
}

impl Lookup for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }
}
