//! Arguments and local variables, as text and for JSON.

use super::forms;
use super::screen::Page;
use super::text::printable;
use crate::snapshot::Frame;
use crate::unwind::variables::{FrameVariables, Value, Variable};

/// Where a variable begins: two columns further than its frame's function.
const INDENT: usize = 9;

/// Below a frame: its arguments, and then its local variables, a line each. Nothing where they were not looked up.
pub fn text(page: &mut Page, frame: &Frame) {
    let Some(variables) = &frame.variables else {
        return;
    };
    let mut line = |text: &str| page.hang(&" ".repeat(INDENT), INDENT + 2, text);
    for argument in &variables.arguments {
        line(&format!("argument {}", printable(&in_words(argument))));
    }
    for local in &variables.locals {
        line(&printable(&in_words(local)));
    }
    if variables.cut_short {
        line("… there are more");
    }
}

/// `name = value`, and what an argument was on entry where that is known (gdb: `print entry-values default`).
fn in_words(variable: &Variable) -> String {
    let Variable { name, value, .. } = variable;
    let entry = match &variable.at_entry {
        Some(entry) if entry == value => format!("{name} = {name}@entry = {value}"),
        Some(entry) => format!("{name} = {value}, {name}@entry = {entry}"),
        None => format!("{name} = {value}"),
    };
    match variable.read_later {
        true => format!("{entry}  (in part read after the stop)"),
        false => entry,
    }
}

/// `arguments` and `locals` of a frame.
pub fn forms(variables: &FrameVariables) -> (Vec<forms::Variable>, Vec<forms::Variable>) {
    let list = |all: &[Variable]| all.iter().map(form).collect();
    (list(&variables.arguments), list(&variables.locals))
}

fn form(v: &Variable) -> forms::Variable {
    let known = |value: &Value| match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let missing = match &v.value {
        Value::Text(_) => None,
        Value::OptimizedOut => Some("optimized out"),
        Value::Unavailable(why) => Some(why.as_str()),
    };
    forms::Variable {
        name: v.name.clone(),
        type_name: v.type_name.clone(),
        value: known(&v.value),
        missing: missing.map(str::to_owned),
        at_entry: v.at_entry.as_ref().and_then(known),
        block: v.block,
        read_later: v.read_later,
    }
}
