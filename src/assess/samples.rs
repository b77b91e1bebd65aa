//! Several looks at one backend: does it go round in a loop, or does it get on?
//!
//! Stacks are merged into a tree, from the outermost function on. What all of them have in common is where the
//! loop is; what lies below that is what the loop calls.

use schemars::JsonSchema;
use serde::Serialize;

use super::rules;
use crate::address::Avma;
use crate::snapshot::{Frame, Place, Sample, Snapshot};

/// The most functions that a tree tells apart. Looks that meet more are counted where the tree ends.
const MOST_NODES: usize = 20_000;

/// Stacks, merged: each function below the one that called it, with the number of looks that found it there.
#[derive(Debug)]
pub struct Tree {
    /// Parents come before their children; the first is no function, but what all stacks begin at.
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    place: Option<Place>,
    looks: usize,
    /// How many of these looks found it innermost.
    innermost: usize,
    children: Vec<usize>,
}

/// One function in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "branch", deny_unknown_fields)]
pub struct Branch {
    /// How many functions called each other to get there.
    pub depth: usize,
    /// The function, in words.
    pub function: String,
    /// In how many looks it was there.
    #[schemars(range(min = 1))]
    pub looks: usize,
    /// In how many looks it was the innermost.
    pub innermost: usize,
    /// How many functions it was seen to call.
    #[serde(skip)]
    pub calls: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            nodes: vec![Node::new(None)],
        }
    }
}

impl Tree {
    /// Merges stacks, each from its outermost function on.
    pub fn of<'p>(stacks: impl IntoIterator<Item = &'p [Place]>) -> Self {
        let mut tree = Tree::default();
        for stack in stacks {
            tree.add(stack);
        }
        tree
    }

    /// Merges one more.
    pub fn add(&mut self, stack: &[Place]) {
        let mut at = 0;
        self.nodes[at].looks += 1;
        for place in stack {
            let known = self.nodes[at].children.iter().copied().find(|child| {
                self.nodes[*child]
                    .place
                    .as_ref()
                    .is_some_and(|p| same(p, place))
            });
            at = match known {
                Some(child) => child,
                None if self.nodes.len() >= MOST_NODES => break,
                None => {
                    self.nodes.push(Node::new(Some(place.clone())));
                    let child = self.nodes.len() - 1;
                    self.nodes[at].children.push(child);
                    child
                }
            };
            self.nodes[at].looks += 1;
        }
        self.nodes[at].innermost += 1;
    }

    /// How many stacks were merged.
    pub fn looks(&self) -> usize {
        self.nodes[0].looks
    }

    /// All functions, each before those that it called, the most frequent of these first.
    pub fn branches(&self) -> Vec<Branch> {
        let mut branches = Vec::new();
        let mut next: Vec<(usize, usize)> = vec![(0, 0)];
        while let Some((at, depth)) = next.pop() {
            let node = &self.nodes[at];
            if let Some(place) = &node.place {
                branches.push(Branch {
                    depth: depth - 1,
                    function: place.name.clone(),
                    looks: node.looks,
                    innermost: node.innermost,
                    calls: node.children.len(),
                });
            }
            let mut children = node.children.clone();
            children.sort_by_key(|child| self.nodes[*child].looks);
            next.extend(children.into_iter().map(|child| (child, depth + 1)));
        }
        branches
    }
}

impl Node {
    fn new(place: Option<Place>) -> Self {
        Node {
            place,
            looks: 0,
            innermost: 0,
            children: Vec::new(),
        }
    }
}

/// Whether both are the same function. Its name may have been found at one look only.
fn same(a: &Place, b: &Place) -> bool {
    (&a.module, a.start) == (&b.module, b.start)
}

/// How many functions, from the outermost on, were the same at all looks: not only of one name, but with the same frame,
/// called from the same place. A caller that has moved on has called anew, so that the loop is in it or further out.
fn steady(stacks: &[&[Place]]) -> usize {
    let Some((first, others)) = stacks.split_first() else {
        return 0;
    };
    let differ = |a: Option<Avma>, b: Option<Avma>| a.zip(b).is_some_and(|(a, b)| a != b);
    for (depth, place) in first.iter().enumerate() {
        let at_depth = || others.iter().map(|stack| stack.get(depth));
        if !at_depth().all(|p| p.is_some_and(|p| same(p, place) && !differ(p.cfa, place.cfa))) {
            return depth;
        }
        if at_depth().flatten().any(|p| differ(p.at, place.at)) {
            return depth + 1;
        }
    }
    first.len()
}

/// The functions that were found right below the first `depth`, each with its number of looks, the most frequent first.
fn called<'p>(stacks: &[&'p [Place]], depth: usize) -> Vec<(&'p Place, usize)> {
    let mut below: Vec<(&Place, usize)> = Vec::new();
    for place in stacks.iter().filter_map(|stack| stack.get(depth)) {
        match below.iter_mut().find(|(p, _)| same(p, place)) {
            Some((_, looks)) => *looks += 1,
            None => below.push((place, 1)),
        }
    }
    below.sort_by_key(|(_, looks)| std::cmp::Reverse(*looks));
    below
}

/// What several looks say together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "samples", deny_unknown_fields)]
pub struct Motion {
    /// How many looks found a stack that is known to its root.
    #[schemars(range(min = 2))]
    pub looks: usize,
    /// The functions that all of them have in common, innermost first, in words: there the loop is, if it is one.
    pub common: Vec<String>,
    /// What the innermost of the common functions called, the most frequent first.
    pub below: Vec<Share>,
    /// Why it gets on, if it does.
    pub progress: Option<&'static str>,
    /// All stacks in one tree, outermost first: each function stands before those that it called, the most frequent of
    /// these first. Its share is its own looks divided by those of the whole.
    pub tree: Vec<Branch>,
}

/// How often something was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "share", deny_unknown_fields)]
pub struct Share {
    /// The function, in words.
    pub function: String,
    /// In how many looks.
    #[schemars(range(min = 1))]
    pub looks: usize,
}

/// Compares the looks at a backend; none if there was only one that says something.
pub fn motion(s: &Snapshot) -> Option<Motion> {
    let first = s.as_sample();
    let all: Vec<&Sample> = std::iter::once(&first).chain(&s.samples).collect();
    let stacks: Vec<&[Place]> = all.iter().filter_map(|l| l.places.as_deref()).collect();
    if s.samples.is_empty() || stacks.len() < 2 {
        return None;
    }
    let common = &stacks[0][..steady(&stacks)];
    let below = called(&stacks, common.len());
    let tree = Tree::of(stacks);
    let innermost = common_frames(s, common.len()).first();
    let another_statement = all
        .windows(2)
        .any(|two| matches!((two[0].statement_start, two[1].statement_start), (Some(a), Some(b)) if a != b));
    let progress = if another_statement {
        Some("the statement changed from one look to the next")
    } else if innermost.is_none_or(|f| rules::EXECUTOR.has(f)) {
        Some("the stacks have nothing in common beyond the executor")
    } else {
        None
    };
    Some(Motion {
        looks: tree.looks(),
        common: common.iter().rev().map(|p| p.name.clone()).collect(),
        below: below
            .into_iter()
            .map(|(place, looks)| Share {
                function: place.name.clone(),
                looks,
            })
            .collect(),
        progress,
        tree: tree.branches(),
    })
}

/// The frames of the first look, but those below the `count` functions that all looks have in common.
pub fn common_frames(s: &Snapshot, count: usize) -> &[Frame] {
    let stack = s.stack.as_ref();
    let frames = stack.and_then(|stack| {
        let innermost = stack.frame_of_place(count.checked_sub(1)?)?;
        stack.frames.get(innermost..)
    });
    frames.unwrap_or_default()
}

impl Motion {
    /// What it says, in a line or two.
    pub fn evidence(&self) -> Vec<String> {
        const SHOWN: usize = 3;
        if let Some(why) = self.progress {
            return vec![format!("it makes progress: in {} looks, {why}", self.looks)];
        }
        let common: Vec<&str> = self.common.iter().take(SHOWN).map(String::as_str).collect();
        let mut lines = vec![format!(
            "on the stack in all of {} looks: {}",
            self.looks,
            common.join(", called by ")
        )];
        let below: Vec<String> = self
            .below
            .iter()
            .take(SHOWN)
            .map(|share| format!("{} in {} of them", share.function, share.looks))
            .collect();
        if !below.is_empty() {
            lines.push(format!("and it called: {}", below.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(names: &str) -> Vec<Place> {
        let place = |name: &str| Place {
            module: Some("/lib/x.so".into()),
            start: Some(Avma(name.bytes().map(u64::from).sum())),
            name: name.to_owned(),
            cfa: None,
            at: None,
        };
        names.split_whitespace().map(place).collect()
    }

    fn common(stacks: &[Vec<Place>]) -> (Vec<String>, Vec<(String, usize)>) {
        let stacks: Vec<&[Place]> = stacks.iter().map(Vec::as_slice).collect();
        assert_eq!(Tree::of(stacks.iter().copied()).looks(), stacks.len());
        let depth = steady(&stacks);
        let below = called(&stacks, depth);
        let name = |p: &Place| p.name.clone();
        let common = stacks.first().map_or(&[][..], |first| &first[..depth]);
        (
            common.iter().map(name).collect(),
            below.into_iter().map(|(p, n)| (name(p), n)).collect(),
        )
    }

    #[test]
    fn the_loop_is_where_the_stacks_part() {
        let (common, below) = common(&[
            stack("main run loop malloc"),
            stack("main run loop free x"),
            stack("main run loop free"),
            stack("main run loop"),
        ]);
        assert_eq!(common, ["main", "run", "loop"]);
        assert_eq!(below, [("free".into(), 2), ("malloc".into(), 1)]);
    }

    #[test]
    fn functions_are_told_apart_by_where_they_are_and_not_by_their_names() {
        let mut renamed = stack("main loop");
        renamed[1].name = "an unnamed function".into();
        let (same, _) = common(&[stack("main loop"), renamed.clone()]);
        assert_eq!(same, ["main", "loop"]);
        let mut elsewhere = stack("main loop");
        elsewhere[1].module = None;
        let (same, below) = common(&[stack("main loop"), elsewhere]);
        assert_eq!(same, ["main"]);
        assert_eq!(below, [("loop".into(), 1), ("loop".into(), 1)]);
    }

    /// `while (shm_mq_receive(…) != SUCCESS);`, and calls from here and there.
    #[test]
    fn a_function_that_is_called_anew_is_not_where_the_loop_is() {
        let at = |names: &str, places: &[(u64, u64)]| {
            let mut stack = stack(names);
            for (place, (cfa, at)) in stack.iter_mut().zip(places) {
                (place.cfa, place.at) = (Some(Avma(*cfa)), Some(Avma(*at)));
            }
            stack
        };
        let once = at("main loop receive", &[(90, 1), (80, 2), (70, 3)]);
        let further = at("main loop receive", &[(90, 1), (80, 2), (70, 4)]);
        assert_eq!(
            common(&[once.clone(), further]).0,
            ["main", "loop", "receive"]
        );
        let elsewhere = at("main loop receive", &[(90, 1), (80, 5), (70, 3)]);
        let (names, below) = common(&[once.clone(), elsewhere]);
        assert_eq!(names, ["main", "loop"]);
        assert_eq!(below, [("receive".into(), 2)]);
        let other_frame = at("main loop receive", &[(90, 1), (80, 2), (60, 3)]);
        assert_eq!(common(&[once.clone(), other_frame]).0, ["main", "loop"]);
        let outside = at("main loop", &[(90, 1), (80, 6)]);
        assert_eq!(common(&[once, outside]).0, ["main", "loop"]);
    }

    #[test]
    fn odd_stacks() {
        assert_eq!(common(&[]), (vec![], vec![]));
        assert_eq!(
            common(&[vec![], stack("a")]),
            (vec![], vec![("a".into(), 1)])
        );
        assert_eq!(common(&[stack("a b"), stack("a b")]).0, ["a", "b"]);
        let recursion = "f ".repeat(10_000);
        assert_eq!(
            common(&[stack(&recursion), stack(&recursion)]).0.len(),
            10_000
        );
    }

    #[test]
    fn the_share_of_each_function() {
        let stacks = [
            "main run free",
            "main run malloc",
            "main run malloc",
            "main run",
        ]
        .map(stack);
        let tree = Tree::of(stacks.iter().map(Vec::as_slice));
        let found: Vec<(usize, String, usize, usize)> = tree
            .branches()
            .into_iter()
            .map(|b| (b.depth, b.function, b.looks, b.innermost))
            .collect();
        let expected = [
            (0, "main", 4, 0),
            (1, "run", 4, 1),
            (2, "malloc", 2, 2),
            (2, "free", 1, 1),
        ];
        assert_eq!(found, expected.map(|(d, f, l, i)| (d, f.to_owned(), l, i)));
        assert!(Tree::default().branches().is_empty());
    }

    #[test]
    fn a_tree_does_not_grow_for_ever() {
        let mut tree = Tree::default();
        for n in 0..50 {
            let place = |i: usize| Place {
                module: None,
                start: Some(Avma((n * 1000 + i) as u64)),
                name: String::new(),
                cfa: None,
                at: None,
            };
            tree.add(&(0..1000).map(place).collect::<Vec<_>>());
        }
        assert_eq!(tree.looks(), 50);
        assert!(tree.branches().len() < MOST_NODES);
        assert_eq!(
            tree.branches().iter().map(|b| b.innermost).sum::<usize>() + 30,
            50
        );
    }
}
