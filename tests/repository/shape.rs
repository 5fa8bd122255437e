//! The shape of the source, counted: how far the methods of one type call each other in a circle
//! through files, where a connection is looked up, and how many fields a type has.
//!
//! `SHAPE=show cargo test --test repository shape -- --nocapture` prints what was counted.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Expr, ExprMethodCall, ImplItem, Item, ItemStruct, Member, Type};

use crate::rules::rust_files;

/// Files whose methods of one type may call each other in a circle.
const CIRCLE_MAX: usize = 3;

/// Places that look a connection up by its id, besides the two in `src/shard/events.rs`.
const LOOKUPS_MAX: usize = 5;

/// Fields of a type.
const FIELDS_MAX: usize = 15;

/// Types that are rows: of the configuration, of metrics, of a report.
const ROWS: [&str; 4] =
    ["src/config/", "src/metrics.rs", "src/shard/settings.rs", "src/coordinator/report.rs"];

/// Types that are to be taken apart, and may not grow until then.
const TOO_WIDE: [(&str, &str, usize); 2] =
    [("src/coordinator/mod.rs", "Shutdown", 17), ("src/coordinator/state.rs", "ServerState", 19)];

/// What a file says.
struct Source {
    name: String,
    items: Vec<Item>,
}

fn sources() -> Vec<Source> {
    let files = rust_files().into_iter().filter(|(name, _)| name.starts_with("src/"));
    let parsed = files.map(|(name, text)| {
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        Source { name, items: file.items }
    });
    parsed.collect()
}

/// The methods that a piece of code calls on `self`, or by `Self::`.
#[derive(Default)]
struct Calls {
    names: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("self")) {
            self.names.insert(call.method.to_string());
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        let segments: Vec<_> = path.path.segments.iter().collect();
        if let [first, second] = &segments[..]
            && first.ident == "Self"
        {
            self.names.insert(second.ident.to_string());
        }
        visit::visit_expr_path(self, path);
    }
}

/// Methods of a type in a file, and the methods of the type that they call.
#[derive(Default)]
struct Part {
    methods: BTreeSet<String>,
    calls: BTreeSet<String>,
}

/// The parts of each type, by the directory in which it is and its name, and then by file.
fn types(sources: &[Source]) -> BTreeMap<(String, String), BTreeMap<String, Part>> {
    let mut types: BTreeMap<_, BTreeMap<String, Part>> = BTreeMap::new();
    for source in sources {
        let directory = source.name.rsplit_once('/').map_or("", |(directory, _)| directory);
        for item in &source.items {
            let Item::Impl(block) = item else { continue };
            let Type::Path(path) = &*block.self_ty else { continue };
            let Some(last) = path.path.segments.last() else { continue };
            let key = (directory.to_owned(), last.ident.to_string());
            let part = types.entry(key).or_default().entry(source.name.clone()).or_default();
            for item in &block.items {
                let ImplItem::Fn(method) = item else { continue };
                part.methods.insert(method.sig.ident.to_string());
                let mut calls = Calls::default();
                calls.visit_block(&method.block);
                part.calls.extend(calls.names);
            }
        }
    }
    types
}

/// Files that a file reaches through calls, itself among them only if a circle leads back.
fn reached<'a>(from: &str, parts: &'a BTreeMap<String, Part>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        let calls = &parts[file].calls;
        for (other, part) in parts {
            let is_called = other != file && !part.methods.is_disjoint(calls);
            if is_called && reached.insert(other.as_str()) {
                open.push(other);
            }
        }
    }
    reached
}

/// The largest set of files each of which reaches all others.
fn largest_circle(parts: &BTreeMap<String, Part>) -> BTreeSet<&str> {
    let circles = parts.keys().map(|file| {
        let mutual = |other: &&str| reached(other, parts).contains(file.as_str());
        reached(file, parts).into_iter().filter(mutual).collect::<BTreeSet<_>>()
    });
    circles.max_by_key(BTreeSet::len).unwrap_or_default()
}

fn shows() -> bool {
    std::env::var_os("SHAPE").is_some()
}

#[test]
fn methods_of_one_type_call_downwards_from_file_to_file() {
    let mut wrong = Vec::new();
    for ((directory, name), parts) in types(&sources()) {
        let circle = largest_circle(&parts);
        if shows() && parts.len() > 1 {
            println!("{directory}::{name}: {} files, largest circle {circle:?}", parts.len());
        }
        if circle.len() > CIRCLE_MAX {
            wrong.push(format!("{directory}::{name}: {circle:?}"));
        }
    }
    assert!(wrong.is_empty(), "circles of more than {CIRCLE_MAX} files: {}", wrong.join("\n"));
}

/// Look-ups of a connection by its id: `connections.get_mut(id)`.
#[derive(Default)]
struct Lookups {
    count: usize,
}

impl<'ast> Visit<'ast> for Lookups {
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let is_table = matches!(
            &*call.receiver,
            Expr::Field(field) if matches!(&field.member, Member::Named(name) if name == "connections")
        );
        self.count += usize::from(is_table && call.method == "get_mut");
        visit::visit_expr_method_call(self, call);
    }
}

#[test]
fn a_connection_is_looked_up_where_it_meets_its_event() {
    let mut counted = Vec::new();
    for source in sources() {
        let mut lookups = Lookups::default();
        source.items.iter().for_each(|item| lookups.visit_item(item));
        if lookups.count > 0 {
            counted.push((source.name, lookups.count));
        }
    }
    if shows() {
        println!("look-ups: {counted:?}");
    }
    let elsewhere: usize =
        counted.iter().filter(|(name, _)| name != "src/shard/events.rs").map(|(_, n)| n).sum();
    assert!(elsewhere <= LOOKUPS_MAX, "{counted:?}");
    assert!(counted.iter().any(|(name, count)| name == "src/shard/events.rs" && *count <= 2));
}

/// Structs with their numbers of fields.
#[derive(Default)]
struct Structs {
    fields: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Structs {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.fields.push((item.ident.to_string(), item.fields.len()));
    }
}

#[test]
fn no_type_has_too_many_fields() {
    let mut wrong = Vec::new();
    for source in sources() {
        if ROWS.iter().any(|rows| source.name.starts_with(rows)) {
            continue;
        }
        let mut structs = Structs::default();
        source.items.iter().for_each(|item| structs.visit_item(item));
        for (name, fields) in structs.fields {
            let known =
                TOO_WIDE.iter().find(|(file, known, _)| *file == source.name && *known == name);
            let most = known.map_or(FIELDS_MAX, |(_, _, most)| *most);
            if fields > most {
                wrong.push(format!("{}: {name} has {fields}", source.name));
            }
            assert!(known.is_none() || fields > FIELDS_MAX, "{name} need not be in the list");
        }
    }
    assert!(wrong.is_empty(), "more than {FIELDS_MAX} fields: {}", wrong.join("\n"));
}

fn part(methods: &[&str], calls: &[&str]) -> Part {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Part { methods: owned(methods), calls: owned(calls) }
}

#[test]
fn a_circle_is_found_and_a_way_down_is_none() {
    let of = |parts: Vec<(&str, Part)>| -> BTreeMap<String, Part> {
        parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
    };
    let down = of(vec![
        ("a", part(&["a"], &["b", "c"])),
        ("b", part(&["b"], &["c"])),
        ("c", part(&["c"], &["c"])),
    ]);
    assert!(largest_circle(&down).is_empty());
    let circle = of(vec![
        ("a", part(&["a"], &["b"])),
        ("b", part(&["b"], &["c"])),
        ("c", part(&["c"], &["a"])),
        ("d", part(&["d"], &["a"])),
    ]);
    assert_eq!(largest_circle(&circle), BTreeSet::from(["a", "b", "c"]));
}
