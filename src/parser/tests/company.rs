//! Texts that share a compiler.

use super::*;

/// One of each kind of what a text may leave behind in the compiler: variables, features, aliases,
/// flags, children.
const TEXTS: [&str; 9] = [
    "include <tunables/global>\nprofile custom.a {\n include <abstractions/base>\n /a/** rw,\n}\n",
    "@{DIR}=/a /b\n@{DIR}+=/c\nprofile custom.b { @{DIR}/x r, }\n",
    "@{DIR}=/other\nprofile custom.c flags=(complain) { @{DIR}/x w, }\n",
    "profile custom.d flags=(attach_disconnected) {\n /d r,\n ^hat { /h r, }\n profile sub { /s r, }\n}\n",
    "alias /usr/ -> /mnt/usr/,\nprofile custom.e { /usr/bin/x mr, }\n",
    "profile custom.f { /usr/bin/x mr, }\nprofile custom.f2 { network inet, }\n",
    "abi <abi/3.0>,\nprofile custom.g {\n capability net_admin,\n signal (send) peer=x,\n}\n",
    "${SWITCH}=true\nprofile custom.h {\n if ${SWITCH} {\n  /yes r,\n }\n}\n",
    "profile custom.i { set rlimit nofile <= 8, deny /x** w, ptrace, mount, }\n",
];

fn by_index(results: Results) -> Vec<Result<Vec<u8>, Refusal>> {
    let mut results: Vec<_> = results;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// As [`compiler`], with one job: all texts share what can be shared.
fn single(settings: Settings) -> Compiler {
    compiler(Settings {
        jobs: Some(1),
        ..settings
    })
}

/// As [`single`], with `program` in the compiler's place.
fn single_with(program: &Path) -> Compiler {
    single(Settings {
        program: Some(program.to_owned()),
        ..settings()
    })
}

/// A compiler that notes each start in a file of its own, and is the real one then.
fn counted(name: &str) -> (PathBuf, PathBuf) {
    let folder = std::env::temp_dir().join(format!("armorer-test-{}-{name}.d", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let real = single(settings()).program;
    let body = format!(": >{}/$$\nexec {} \"$@\"", folder.display(), real.display());
    (script(name, &body), folder)
}

fn starts(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_text_becomes_the_same_policy_in_any_company() {
    let compiler = single(settings());
    let alone: Vec<_> = TEXTS
        .iter()
        .map(|text| compile(&compiler, &[text]).remove(0).1.unwrap())
        .collect();
    for turn in 0..TEXTS.len() {
        // By length they are sorted: the comments give each order its turn.
        let texts: Vec<String> = (0..TEXTS.len())
            .map(|index| {
                TEXTS[index].to_owned() + &"#\n".repeat(250 * ((index + turn) % TEXTS.len()))
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let together = by_index(compile(&compiler, &texts));
        for (index, policy) in together.into_iter().enumerate() {
            assert!(policy.unwrap() == alone[index], "{turn}: {}", TEXTS[index]);
        }
    }
}

#[test]
fn a_source_shares_a_compiler_and_keeps_it_to_itself() {
    let (program, folder) = counted("sources");
    let compiler = single_with(&program);
    assert!(
        compile(&compiler, &TEXTS)
            .iter()
            .all(|(_, result)| result.is_ok())
    );
    assert_eq!(starts(&folder), 1);
    let mut texts: Vec<Text> = TEXTS.iter().map(|text| text_of("custom.x", text)).collect();
    for text in &mut texts[..4] {
        text.source = "elsewhere";
    }
    let mut answers = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    compiler
        .compile(&texts, deadline, None, &mut |some| answers += some.len())
        .unwrap();
    assert_eq!((answers, starts(&folder)), (TEXTS.len(), 3));
    fs::remove_file(program).unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_bad_spoils_no_company_and_has_its_own_words() {
    let (program, folder) = counted("bad");
    let compiler = single_with(&program);
    let bad = "profile custom.x {\n  /a r\n}\n";
    let mut texts = TEXTS.to_vec();
    texts.insert(2, bad);
    texts.insert(5, "# nothing\n");
    texts.push(bad);
    let results = by_index(compile(&compiler, &texts));
    for (index, result) in results.into_iter().enumerate() {
        match (texts[index], result) {
            ("# nothing\n", result) => {
                assert_eq!(result.unwrap_err().message, "custom.x defines no profile");
            }
            (text, result) if text == bad => {
                let message = result.unwrap_err().message;
                assert!(
                    message.starts_with("custom.x line 3: syntax error"),
                    "{message}"
                );
            }
            (text, result) => assert!(result.is_ok(), "{text}"),
        }
    }
    // Each bad one ends a compiler that it shares, and has one alone.
    assert_eq!(starts(&folder), 5);
    fs::remove_file(program).unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_slow_text_goes_last_even_where_only_one_compiler_runs() {
    let compiler = single(Settings {
        timeout: Duration::from_secs(8),
        ..settings()
    });
    let bomb = bomb();
    let mut texts = vec![bomb.as_str()];
    texts.extend(TEXTS);
    texts.push(&bomb);
    let results = compile(&compiler, &texts);
    for (_, result) in &results[..TEXTS.len()] {
        assert!(result.is_ok());
    }
    for (_, result) in &results[TEXTS.len()..] {
        let kind = result.as_ref().unwrap_err().kind;
        assert_eq!(kind, RefusalKind::CompileTimeout);
    }
    assert_eq!(results.len(), texts.len());
}

#[test]
fn output_that_cannot_be_told_apart_costs_the_company_only() {
    let program = script("junk", "for file; do :; done; cat \"$file\"");
    let compiler = single_with(&program);
    let results = by_index(compile(&compiler, &["one", "two", "three"]));
    let texts: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    fs::remove_file(program).unwrap();
    assert_eq!(texts, [b"one".as_slice(), b"two", b"three"]);
}

/// The real one goes on after a policy that it could not write.
#[test]
fn what_a_failing_compiler_wrote_is_not_believed() {
    let real = single(settings()).program;
    let body = format!(
        "real={}\n[ $# -lt 11 ] && exec $real \"$@\"\nbase=$6; shift 7\n$real -Q -K -S -j0 -b $base \"$@\"; exit 1",
        real.display()
    );
    let program = script("failing", &body);
    let compiler = single_with(&program);
    let results = by_index(compile(&compiler, &TEXTS));
    fs::remove_file(program).unwrap();
    let compiler = single(settings());
    for (text, result) in TEXTS.iter().zip(results) {
        let alone = compile(&compiler, &[text]).remove(0).1.unwrap();
        assert!(result.unwrap() == alone, "{text}");
    }
}

/// Here is no kernel that could confine: what fails is the proof, and nothing else.
#[test]
fn without_the_proof_the_texts_are_compiled_outside() {
    if Path::new("/sys/kernel/security/apparmor").exists() {
        return;
    }
    let compiler = single(settings()).confined();
    let proof = Proof {
        text: TEXTS[0],
        blob: Digest::of(b""),
    };
    let texts: Vec<Text> = TEXTS.iter().map(|text| text_of("custom.x", text)).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut good = 0;
    for texts in [texts.as_slice(), &[]] {
        let outside = compiler.compile(texts, deadline, Some(proof), &mut |answers| {
            good += answers.iter().filter(|(_, result)| result.is_ok()).count();
        });
        assert!(
            outside
                .unwrap_err()
                .contains("cannot enter the AppArmor profile")
        );
    }
    assert_eq!(good, TEXTS.len());
}

/// A compiler that writes other policy than it should is not believed, whatever it says.
#[test]
fn a_wrong_proof_takes_the_rest_with_it() {
    let mut compiler = single(settings());
    let deadline = Instant::now() + Duration::from_secs(60);
    let texts: Vec<Text> = TEXTS.iter().map(|text| text_of("custom.x", text)).collect();
    let right = compile(&compiler, &TEXTS[..1]).remove(0).1.unwrap();
    compiler.resources.jobs = 2;
    for (blob, is_right) in [(right.as_slice(), true), (b"other", false)] {
        let proof = Proof {
            text: TEXTS[0],
            blob: Digest::of(blob),
        };
        let mut seen = Vec::new();
        let outside = compiler.compile(&texts, deadline, Some(proof), &mut |answers| {
            seen.extend(
                answers
                    .into_iter()
                    .map(|(index, result)| (index, result.is_ok())),
            );
        });
        assert_eq!(outside.is_ok(), is_right, "{outside:?}");
        seen.sort_unstable();
        let all: Vec<_> = (0..TEXTS.len()).map(|index| (index, true)).collect();
        assert_eq!(seen, all);
    }
}
