//! Cancels at any instruction that is called safe, of a server that never checks for interrupts itself: whatever a
//! statement does, it is stuck in it. Assertions watch, and so does the session, which has to go on as if nothing had been.

use postgres::Client;

use super::{figure, times};
use crate::aftermath::assert_no_complaints;
use crate::harness::{How, Installation, Server, Stuck, built};
use crate::report::Report;

/// What the statements work on.
const SET_UP: &str = "
    CREATE TABLE items (id int PRIMARY KEY, name text, price numeric);
    INSERT INTO items SELECT n, md5(n::text), n * 1.37 FROM generate_series(1, 3000) n;
    CREATE INDEX ON items (name);
    CREATE TABLE counted (n int);
    INSERT INTO counted VALUES (0);
    CREATE FUNCTION depth(n int) RETURNS int LANGUAGE plpgsql AS
        'BEGIN RETURN CASE WHEN n = 0 THEN 0 ELSE 1 + depth(n - 1) END; END'";

/// What is done over and over, in PL/pgSQL; and whether much of it is done where a cancel is safe.
const WORK: &[(&str, &str, bool)] = &[
    (
        "empty blocks with handlers",
        "FOR i IN 1..9999 LOOP BEGIN EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP",
        false,
    ),
    (
        "errors that are caught",
        "FOR i IN 1..999 LOOP BEGIN x := 1 / (i % 2); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP",
        false,
    ),
    (
        "rows that are changed in subtransactions",
        "FOR i IN 1..99 LOOP BEGIN UPDATE counted SET n = n + 1 / (i % 3);
         EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP",
        false,
    ),
    (
        "long numbers in a subtransaction",
        "BEGIN FOR i IN 1..999 LOOP x := round(x * 1.00001, 800) + i / 7.0; END LOOP;
         EXCEPTION WHEN division_by_zero THEN NULL; END",
        true,
    ),
    (
        "sums of roots",
        "PERFORM sum(sqrt(n::numeric) * ln(n::numeric + 1)) FROM generate_series(1, 999) n",
        true,
    ),
    (
        "patterns",
        "PERFORM count(*) FROM items a, items b WHERE a.name LIKE '%' || substr(b.name, 1, 3) || '%' AND b.id < 99",
        true,
    ),
    (
        "calls within calls",
        "PERFORM sum(depth(300)) FROM generate_series(1, 9)",
        false,
    ),
    (
        "an extension that checks an index",
        "PERFORM bt_index_check('items_name_idx', true)",
        false,
    ),
];

/// It, for as many seconds, were it left alone.
fn statement(work: &str, seconds: u32) -> String {
    format!(
        "DO $$ DECLARE x numeric := 1; ends timestamptz := clock_timestamp() + interval '{seconds} s';
         BEGIN WHILE clock_timestamp() < ends LOOP {work}; END LOOP; END $$"
    )
}

/// A cancel in vain by PostgreSQL's own means, then pgpoke. Whether it found an instruction that it calls safe.
fn interrupt(
    server: &Server,
    observer: &mut Client,
    (what, work, calm): (&str, &str, bool),
) -> bool {
    // On a busy machine a look finds the right place later.
    let (seconds, wait) = if calm { (600, "60s") } else { (6, "1s") };
    let stuck = server.stuck_when(&statement(work, seconds), |b| b.cpu_ticks() > 3);
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["interrupt", "--yes", "--wait", wait], stuck.pid());
    let outcome = report.at("/outcome");
    let cancelled = outcome == "cancelled";
    if cancelled {
        stuck.assert_cancelled();
    } else {
        assert!(!calm, "{what}: {}", report.run);
        // At its last look it may have been where interrupts are held off.
        let nowhere = outcome == "refused" || outcome == "pointless";
        assert!(nowhere, "{what}: {}", report.run);
        stuck.backend().assert_running_untraced();
        observer
            .batch_execute("UPDATE items SET price = price WHERE id = 1")
            .expect("another session goes on");
        // By the server's main loop in the end, or by nobody.
        if let Err(failure) = stuck.result() {
            assert_eq!(failure.code(), "57014", "{what}: {failure}");
        }
    }
    goes_on(&stuck, what);
    cancelled
}

/// Neither in a transaction that nobody began, nor in one that failed; and it can begin and end both kinds.
fn goes_on(stuck: &Stuck, what: &str) {
    for sql in [
        "SELECT 1",
        "BEGIN; SAVEPOINT s; UPDATE counted SET n = 0; ROLLBACK TO s; UPDATE counted SET n = 1; COMMIT",
        "DO $$ BEGIN BEGIN UPDATE counted SET n = 2; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$",
        "VACUUM counted",
    ] {
        stuck
            .run_follow_up(sql)
            .unwrap_or_else(|failure| panic!("after a cancel in {what}: {failure} of {sql}"));
    }
    let rows = stuck.run_follow_up("SELECT n FROM counted").expect("a row");
    assert_eq!(rows, [[Some("1".to_owned())]], "after a cancel in {what}");
}

#[test]
fn what_is_called_safe_is_safe_at_any_instruction() {
    let server = Server::builder()
        .installation(built!(Installation::unchecked()))
        .start();
    let mut observer = server.connect();
    observer
        .batch_execute("CREATE EXTENSION amcheck")
        .expect("amcheck");
    observer
        .batch_execute(SET_UP)
        .expect("something to work on");
    let mut safe = 0;
    let rounds = times(1, 100);
    for _ in 0..rounds {
        for work in WORK {
            safe += usize::from(interrupt(&server, &mut observer, *work));
            assert_no_complaints(&server, work.0);
        }
    }
    figure("statements", rounds * WORK.len());
    figure("cancelled where it was called safe", safe);
}
