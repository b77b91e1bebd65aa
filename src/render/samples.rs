//! Several looks in one tree: where the loop is, and what share of the looks each function holds.

use std::fmt::Write;

use super::text::printable;
use crate::assess::samples::Branch;

/// The most lines of a tree that are shown on a terminal.
pub const MOST_LINES: usize = 200;

/// The deepest that a line is moved to the right.
const DEEPEST: usize = 30;

/// The tree of `looks` looks. A function that was the only one that its caller called stands below it without moving to
/// the right, so that only where stacks part does the tree branch.
pub fn tree(branches: &[Branch], looks: usize, most: usize) -> String {
    let mut out = String::new();
    // How far to the right the functions above stand, by depth.
    let mut columns: Vec<usize> = Vec::new();
    let root = branches.first().map_or(0, |b| b.depth);
    for branch in branches.iter().take(most) {
        columns.truncate(branch.depth.saturating_sub(root));
        let column = columns.last().copied().unwrap_or(0);
        let _ = writeln!(
            out,
            "{:>5} % {}{}{}",
            percent(branch.looks, looks),
            "  ".repeat(column.min(DEEPEST)),
            printable(&branch.function),
            innermost(branch, looks)
        );
        columns.push(column + usize::from(branch.calls > 1));
    }
    let left_out = branches.len().saturating_sub(most);
    if left_out > 0 {
        let _ = writeln!(out, "        … {left_out} more");
    }
    out
}

/// The tree without its trunk: from the innermost function on in which all looks have met it, and with so many of its
/// callers.
pub fn crown(branches: &[Branch], callers: usize) -> &[Branch] {
    let trunk = branches
        .windows(2)
        .take_while(|two| two[0].calls == 1 && two[0].innermost == 0 && two[1].depth > 0)
        .count();
    &branches[trunk.saturating_sub(callers)..]
}

fn innermost(branch: &Branch, looks: usize) -> String {
    match branch.innermost {
        0 => String::new(),
        n if n == branch.looks && branch.calls == 0 => "  ←".to_owned(),
        n => format!("  ← {} %", percent(n, looks)),
    }
}

fn percent(part: usize, of: usize) -> usize {
    (part * 100 + of / 2).checked_div(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_branches_where_stacks_part() {
        let branch = |depth, function: &str, looks, innermost, calls| Branch {
            depth,
            function: function.to_owned(),
            looks,
            innermost,
            calls,
        };
        let branches = [
            branch(0, "main()", 4, 0, 1),
            branch(1, "run()", 4, 1, 2),
            branch(2, "malloc()", 2, 0, 1),
            branch(3, "brk()", 2, 2, 0),
            branch(2, "free()\x1b", 1, 1, 0),
        ];
        assert_eq!(
            tree(&branches, 4, 99),
            "  100 % main()\n  100 % run()  ← 25 %\n   50 %   malloc()\n   50 %   brk()  ←\n   25 %   free()\u{fffd}  ←\n"
        );
        assert!(tree(&branches, 4, 2).ends_with("  … 3 more\n"));
        assert_eq!(
            tree(crown(&branches, 0), 4, 2),
            "  100 % run()  ← 25 %\n   50 %   malloc()\n        … 2 more\n"
        );
        assert_eq!(tree(&[], 0, 9), "");
        assert_eq!(crown(&branches, 1), &branches[..]);
        assert!(crown(&[], 5).is_empty());
    }
}
