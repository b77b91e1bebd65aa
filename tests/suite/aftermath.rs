//! After an interrupt that was called safe: a thousand statements on a server with assertions, which
//! watch over memory contexts, caches, reference counts and locks, and complain in the log.

use postgres::Client;

use crate::harness::{Failure, How, Installation, Server, built, server_with_testext};
use crate::matrix::{ROWS, free};

/// One message to the server: its statements, and the SQLSTATE if the last one is to fail.
struct Message {
    statements: Vec<String>,
    error: Option<&'static str>,
}

/// Statements of all kinds: plain ones, temporary tables, savepoints, cursors, prepared statements,
/// errors within and outside PL/pgSQL, sorts and hash joins that spill, COPY, changes of the
/// catalog, and the extension itself.
fn messages(round: usize, file: &str) -> Vec<Message> {
    let fine: [&[&str]; 8] = [
        &[
            "BEGIN",
            "CREATE TEMP TABLE t_N (id int PRIMARY KEY, v text)",
            "INSERT INTO t_N SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 1000) n",
            "SAVEPOINT a",
            "UPDATE t_N SET v = v || 'x' WHERE id % 3 = 0",
            "ROLLBACK TO a",
            "SAVEPOINT b",
            "DELETE FROM t_N WHERE id % 7 = 0",
            "RELEASE b",
            "DECLARE c CURSOR FOR SELECT * FROM t_N ORDER BY v",
            "FETCH 10 FROM c",
            "MOVE 100 IN c",
            "FETCH BACKWARD 5 FROM c",
            "CLOSE c",
            "COMMIT",
        ],
        &[
            "PREPARE p_N(int) AS SELECT count(*) FROM t_N WHERE id < $1",
            "EXECUTE p_N(1)",
            "EXECUTE p_N(10)",
            "EXECUTE p_N(100)",
            "EXECUTE p_N(1000)",
            "EXECUTE p_N(500)",
            "EXECUTE p_N(50)",
            "EXECUTE p_N(5)",
            "DEALLOCATE p_N",
        ],
        &[
            "SET work_mem = '64kB'",
            "SET enable_nestloop = off",
            "SELECT count(*) FROM t_N a JOIN t_N b ON a.v = b.v",
            "SELECT sum(id) FROM (SELECT * FROM t_N ORDER BY v DESC OFFSET 0) s",
            "SELECT count(*) FROM (SELECT v, count(*) FROM t_N GROUP BY v) s",
            "SELECT id, rank() OVER (ORDER BY v) FROM t_N LIMIT 10",
            "WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 100) SELECT sum(n) FROM r",
            "RESET ALL",
        ],
        &[
            "DO $$ BEGIN FOR n IN 1..20 LOOP
                 BEGIN PERFORM 1 / (n % 2); EXCEPTION WHEN division_by_zero THEN NULL; END;
             END LOOP; END $$",
            "CREATE FUNCTION f_N(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 BEGIN RAISE 'no'; EXCEPTION WHEN raise_exception THEN RETURN n + 1; END;
             END $$",
            "SELECT sum(f_N(n)) FROM generate_series(1, 20) n",
            "DROP FUNCTION f_N",
        ],
        &[
            "COPY t_N TO 'FILE'",
            "TRUNCATE t_N",
            "COPY t_N FROM 'FILE'",
            "SELECT sum(id) FROM t_N",
            "VALUES (1), (2)",
        ],
        &[
            "CREATE TABLE c_N (a int)",
            "ALTER TABLE c_N ADD COLUMN b text DEFAULT 'x'",
            "INSERT INTO c_N SELECT n FROM generate_series(1, 100) n",
            "CREATE INDEX ON c_N (a)",
            "ANALYZE c_N",
            "ALTER TABLE c_N RENAME TO d_N",
            "COMMENT ON TABLE d_N IS 'soon gone'",
            "CREATE VIEW e_N AS SELECT a FROM d_N",
            "SELECT count(*) FROM e_N",
            "DROP TABLE d_N CASCADE",
        ],
        &[
            "SELECT pgpoke_checked(0.0005)",
            "SELECT pgpoke_gap(0.0005)",
            "SELECT count(*) FROM pg_locks",
            "SELECT count(*) FROM pg_stat_activity",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_unlock(1)",
        ],
        &["DISCARD PLANS", "DISCARD SEQUENCES", "DROP TABLE t_N"],
    ];
    let failing: [(&[&str], &str); 4] = [
        (&["SELECT 1 / 0"], "22012"),
        (&["TABLE nowhere"], "42P01"),
        (&["INSERT INTO t_N VALUES (1, 'again')"], "23505"),
        (&["BEGIN", "SELECT 1", "SELECT 'x'::int"], "22P02"),
    ];
    let message = |statements: &[&str], error| Message {
        statements: statements
            .iter()
            .map(|s| s.replace("_N", &format!("_{round}")).replace("FILE", file))
            .collect(),
        error,
    };
    let mut messages: Vec<_> = fine.iter().map(|s| message(s, None)).collect();
    let failing = failing.iter().map(|(s, code)| message(s, Some(*code)));
    // Where the table is still there; and out of the transaction that failed.
    messages.splice(6..6, failing.chain([message(&["ROLLBACK"], None)]));
    messages
}

/// How many statements there are, at least.
const STATEMENTS: usize = 1_000;

/// Runs them all, through `run`.
#[track_caller]
fn run_statements(told: &str, file: &str, mut run: impl FnMut(&str) -> Result<(), Failure>) {
    let mut count = 0;
    for round in 0.. {
        for message in messages(round, file) {
            count += message.statements.len();
            let sql = message.statements.join("; ");
            match (run(&sql), message.error) {
                (Ok(()), None) => {}
                (Err(failure), Some(code)) if failure.code() == code => {}
                (result, _) => panic!("{told}, statement {count}: {result:?} of {sql}"),
            }
        }
        if count >= STATEMENTS {
            return;
        }
    }
}

/// What has no business in the log: failed assertions, and what was leaked or overwritten.
const COMPLAINTS: [&str; 7] = [
    "TRAP:",
    // What a transaction says that was left half begun or half ended, before it ends the session.
    "unexpected state",
    "WARNING:",
    "PANIC:",
    "leak",
    "problem in alloc",
    "detected write past chunk end",
];

/// Nothing restarted, and the log has none of that.
#[track_caller]
pub fn assert_no_complaints(server: &Server, told: &str) {
    server.assert_unharmed();
    let log = server.log();
    let complaints: Vec<_> = log
        .lines()
        .filter(|line| COMPLAINTS.iter().any(|c| line.contains(c)))
        .collect();
    assert!(complaints.is_empty(), "{told}:\n{}", complaints.join("\n"));
}

/// All that is kept on disk is as its indexes say, and nobody holds what nobody should.
fn assert_sound(client: &mut Client) {
    let check = "CREATE EXTENSION amcheck;
        SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'";
    client.simple_query(check).expect("sound indexes");
    // Autovacuum may be at work after a minute.
    let others: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_locks LEFT JOIN pg_stat_activity a USING (pid)
             WHERE pid <> pg_backend_pid() AND a.backend_type IS DISTINCT FROM 'autovacuum worker'",
            &[],
        )
        .expect("pg_locks")
        .get(0);
    assert_eq!(others, 0, "locks that were left behind");
}

fn goes_on(server: &Server, how: How) {
    // Only a server with assertions would complain: else the silence would prove nothing.
    let mut client = server.connect();
    let on: String = client
        .query_one("SHOW debug_assertions", &[])
        .unwrap()
        .get(0);
    assert_eq!(on, "on");
    let file = server.directory().join("copied");
    let file = file.to_str().expect("a path in /tmp");
    let mut rows = 0;
    for (name, scenario) in ROWS.iter().filter(|(_, s)| s.can_be_freed(how)) {
        let told = format!("{name}, after a {how:?}");
        eprintln!("{told}");
        let actor = free(server, scenario, how);
        let stuck = actor.stuck.as_ref().expect("a session");
        match how {
            How::Cancel => {
                stuck.assert_cancelled();
                run_statements(&told, file, |sql| stuck.run_follow_up(sql).map(drop));
                stuck.backend().assert_running_untraced();
            }
            How::Terminate => {
                stuck.assert_terminated();
                let mut session = server.connect();
                run_statements(&told, file, |sql| {
                    Ok(session.simple_query(sql).map(drop)?)
                });
            }
        }
        assert_no_complaints(server, &told);
        rows += 1;
    }
    assert!(rows >= 10, "only {rows} rows can be freed");
    assert_sound(&mut client);
    assert_no_complaints(server, "at the end");
}

#[test]
fn a_session_goes_on_after_a_cancel() {
    let builder = Server::builder().installation(built!(Installation::cassert()));
    goes_on(&server_with_testext!(builder), How::Cancel);
}

#[test]
fn the_server_goes_on_after_a_terminate() {
    let builder = Server::builder().installation(built!(Installation::cassert()));
    goes_on(&server_with_testext!(builder), How::Terminate);
}
