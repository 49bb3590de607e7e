//! Question files with the quirks that real ones have, and what answers make of them.

mod answers;
mod dsg;
mod pairing;
mod tifa;

use std::path::{Path, PathBuf};

const HEADER: &str = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,\
                      question_natural_language";

fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A row as DSG writes it: everything but the numbers may be in quotes.
fn row(item: &str, number: &str, dependency: &str, category: (&str, &str), question: &str) -> String {
    let text = format!("\"The prompt of {item}, with a comma\"");
    let (broad, detailed) = category;
    format!("{item},{text},k,{number},\"{dependency}\",{broad},{detailed},t,{question}")
}

const WHOLE: (&str, &str) = ("entity", "whole");
