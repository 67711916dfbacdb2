//! A program in the compiler's place that obeys the text: see compiler.c.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::Node;

impl Node {
    /// Puts the stand-in for the compiler on this node, and returns its path.
    pub fn stand_in(&self) -> String {
        fs::copy(program(), self.path("parser")).unwrap();
        self.arg("parser")
    }
}

/// The stand-in, compiled once a process.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = std::env::current_exe().unwrap().with_file_name("stand-in");
        let new = program.with_extension(std::process::id().to_string());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compiler.c");
        let mut cc = Command::new("cc");
        let cc = cc.args(["-O1", "-Wall", "-Werror", source, "-o"]).arg(&new);
        assert!(cc.status().expect("these tests need cc").success());
        fs::rename(&new, &program).unwrap();
        program
    })
}

/// A text of `name` that makes the stand-in do `deeds`.
pub fn deeds(name: &str, deeds: &[&str]) -> String {
    let lines = deeds.iter().map(|deed| format!("#! {deed}\n"));
    format!("{}profile {name} {{\n}}\n", lines.collect::<String>())
}
