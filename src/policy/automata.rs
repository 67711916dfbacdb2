//! The automata of compiled policy, walked as the kernel walks them.
//!
//! A set of tables, big endian (`security/apparmor/match.c`, `include/match.h`). The grants of states
//! stand in the accept tables, or in entries that these point at (`policy_compat.c`, `file.c`). The
//! kernel refuses automata that point out of their tables; here they lead to state 0, which grants
//! nothing.

/// In a base: the steps that the state lacks are those of its default state.
const DIFFERENTIAL: u32 = 1 << 31;

/// In the second accept table: the entry is the owner's, and the next one the others'.
const BY_OWNER: u32 = 1;

/// Permissions (`include/perms.h`).
pub(super) const EXEC: u32 = 1;
pub(super) const WRITE: u32 = 2;
pub(super) const READ: u32 = 4;
pub(super) const APPEND: u32 = 8;
pub(super) const CREATE: u32 = 0x10;
pub(super) const DELETE: u32 = 0x20;
pub(super) const LOCK: u32 = 0x8000;
pub(super) const MAP_EXEC: u32 = 0x1_0000;
pub(super) const LINK: u32 = 0x4_0000;

/// Executions (`AA_X_…` in `include/file.h`): the profile is looked for in the table of targets, or by
/// the program's path; the environment is left as it is; the profile is a child; without it, the program
/// keeps the present profile, or is unconfined.
pub(super) const BY_TABLE: u32 = 0x0800_0000;
pub(super) const BY_PATH: u32 = 0x0400_0000;
pub(super) const UNSAFE: u32 = 0x1000_0000;
pub(super) const CHILD: u32 = 0x2000_0000;
pub(super) const INHERIT: u32 = 0x4000_0000;
pub(super) const UNCONFINED: u32 = 0x8000_0000;

/// The permissions of a state.
#[derive(Clone, Copy, Default)]
pub(super) struct Grant {
    pub(super) allow: u32,
    /// Denied by a rule that says so, unless that rule is audited.
    pub(super) quiet: u32,
    /// How an execution goes on, and in the lower 24 bits a place among the targets.
    pub(super) exec: u32,
}

/// The tables, by the numbers that the format gives them.
const ACCEPT: usize = 1;
const BASE: usize = 2;
const CHECK: usize = 3;
const DEFAULT: usize = 4;
const CLASSES: usize = 5;
const ACCEPT2: usize = 7;
const NEXT: usize = 8;

/// An automaton with the grants of its states.
#[derive(Debug, Default)]
pub(super) struct Automaton<'a> {
    tables: [Vec<u32>; 9],
    /// The version of the entries, and fourteen numbers for each (`unpack_perm`). Empty where the
    /// accept tables hold the permissions themselves.
    pub(super) entries: Vec<u32>,
    pub(super) start: Option<u32>,
    /// The names that executions lead to.
    pub(super) targets: Vec<&'a str>,
}

impl Automaton<'_> {
    /// Reads the tables.
    ///
    /// # Errors
    /// They are none, or one is incomplete, unknown or missing.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let field = |at: usize, width| bytes.get(at..at + width).map_or(0, number) as usize;
        let mut at = field(4, 4);
        while at < bytes.len() {
            let (id, width, length) = (field(at, 2), field(at + 2, 2), field(at + 8, 4));
            let data = bytes.get(at + 12..at + 12 + width * length);
            let (Some(table), Some(data), 1..) = (self.tables.get_mut(id), data, width) else {
                return Err("an automaton with an incomplete table");
            };
            *table = data.chunks_exact(width).map(number).collect();
            at = (at + 12 + data.len()).next_multiple_of(8);
        }
        let [_, accept, base, check, default, .., next] = self.tables.each_ref().map(Vec::len);
        if field(0, 4) != 0x1b5e_783d || base == 0 || [accept, default, next] != [base, base, check]
        {
            return Err("an automaton whose tables do not fit together");
        }
        Ok(())
    }

    /// The state behind `path`; 0 if there is none.
    pub(super) fn state(&self, path: &[u8]) -> u32 {
        let step = |state, byte: &u8| self.step(state, *byte, &mut self.tables[BASE].len());
        path.iter().fold(self.start.unwrap_or(1), step)
    }

    /// The state behind `state` and `byte`. Each look at a state takes one from `fuel`; with none left
    /// the answer is 0, for a chain of defaults may be a circle.
    pub(super) fn step(&self, mut state: u32, byte: u8, fuel: &mut usize) -> u32 {
        let class = self.class(byte);
        while *fuel > 0 {
            *fuel -= 1;
            let base = self.at(BASE, state);
            let position = (base & 0xff_ffff) + class;
            if self.at(CHECK, position) == state {
                return self.at(NEXT, position);
            }
            state = self.at(DEFAULT, state);
            if base & DIFFERENTIAL == 0 {
                return state;
            }
        }
        0
    }

    /// The class of `byte`: bytes of one class lead to the same states.
    pub(super) fn class(&self, byte: u8) -> u32 {
        let class = self.tables[CLASSES].get(usize::from(byte));
        class.copied().unwrap_or(byte.into())
    }

    /// The classes that a state has a step of its own for; all others lead to the same states.
    pub(super) fn used(&self) -> std::collections::HashSet<u32> {
        let base = |state: &u32| self.at(BASE, *state) & 0xff_ffff;
        let steps = (0_u32..).zip(&self.tables[CHECK]);
        let classes = steps.map(|(place, state)| place.wrapping_sub(base(state)));
        classes.collect()
    }

    /// The grant of `state`, in a class other than files.
    pub(super) fn grant(&self, state: u32) -> Grant {
        let (accept, accept2) = (self.at(ACCEPT, state), self.at(ACCEPT2, state));
        if !self.entries.is_empty() {
            return self.entry(accept);
        }
        let [allow, quiet, exec] = [accept & 0x7f, accept2 >> 7 & 0x7f, 0];
        Grant { allow, quiet, exec }
    }

    /// The grant of `state` for a file of the process's own, or of another's.
    pub(super) fn file_grant(&self, state: u32, owner: bool) -> Grant {
        let (accept, accept2) = (self.at(ACCEPT, state), self.at(ACCEPT2, state));
        if !self.entries.is_empty() {
            let others = accept2 & BY_OWNER != 0 && !owner;
            return self.entry(accept.saturating_add(others.into()));
        }
        let shift = if owner { 0 } else { 14 };
        let [allow, quiet] = [accept >> shift, accept2 >> (shift + 7)].map(permissions);
        let exec = execution(accept >> (shift + 7));
        Grant { allow, quiet, exec }
    }

    fn entry(&self, index: u32) -> Grant {
        let entry = self.entries.get(1 + 14 * index as usize..);
        let Some(&[_, allow, _, _, _, _, _, _, _, quiet, _, exec, ..]) = entry else {
            return Grant::default();
        };
        Grant { allow, quiet, exec }
    }

    fn at(&self, table: usize, index: u32) -> u32 {
        self.tables[table].get(index as usize).copied().unwrap_or(0)
    }
}

/// `map_old_perms`
const fn permissions(old: u32) -> u32 {
    let write = if old & WRITE == 0 { 0 } else { CREATE | DELETE };
    old & 0xf | write | (old & 0x10) << 14 | (old & 0x60) << 10
}

/// `dfa_map_xindex`
const fn execution(old: u32) -> u32 {
    let kind = match old >> 3 & 0xf {
        0 => 0,
        1 => UNCONFINED,
        2 => BY_PATH,
        3 => BY_PATH | CHILD,
        index => BY_TABLE | (index - 4),
    };
    kind | (old & 1) << 31 | (old & 2) << 27 | (old & 4) << 28
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}
