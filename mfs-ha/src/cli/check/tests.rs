use super::*;

fn report() -> Report {
    let mut report = Report::default();
    report.ok("one", "is fine");
    report.warn("two", "is strange\nin two ways", "look at it");
    report
}

#[test]
fn the_text_has_a_line_for_each_finding_and_one_for_what_to_do() {
    let mut text = Vec::new();
    report().write_text(&mut text).unwrap();
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "ok   one: is fine\n\
         warn two: is strange\n     in two ways\n     do: look at it\n"
    );
}

#[test]
fn the_document_holds_the_same() {
    let mut text = Vec::new();
    report().write_json(&mut text).unwrap();
    assert!(text.ends_with(b"}\n"));
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        document,
        serde_json::json!({"findings": [
            {"name": "one", "level": "ok", "message": "is fine"},
            {"name": "two", "level": "warn", "message": "is strange\nin two ways", "hint": "look at it"},
        ]})
    );
}

#[test]
fn only_a_failure_fails() {
    let mut report = report();
    assert!(!report.has_failed());
    report.fail("three", "is broken", "repair it");
    assert!(report.has_failed());
}

#[test]
fn a_program_that_is_not_loaded_has_no_name() {
    assert_eq!(bpf::program_name(u32::MAX), None);
}
