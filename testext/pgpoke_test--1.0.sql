-- One function for each way of getting stuck; pgpoke_test.c says what each of them models.
\echo Use "CREATE EXTENSION pgpoke_test" to load this file. \quit

CREATE FUNCTION pgpoke_spin() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_sleep() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_read() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_latch() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_usleep() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_stdio() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_wait(kind text, argument text DEFAULT '') RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_thread_in_vfork(seconds float8) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_vfork(seconds float8) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE FUNCTION pgpoke_handlers(kind text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_at_exit(kind text, argument text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_blocked() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_usr1(kind text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_handler_loop() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION pgpoke_hold() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_crit() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_lwlock() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_lwlock_hold(which text, shared bool) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_lwlock_divide(dividend numeric, divisor numeric) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_lwlock_wait(which text, shared bool) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_lwlock_turns() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_buffer_turns() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_queue() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_let_go() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_catch() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_spinlock() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_spinlock_held() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_spinlock_released() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_spinlock_hold() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_spinlock_wait() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_at_subtransaction_end() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_subtransaction() RETURNS void LANGUAGE plpgsql AS
    'BEGIN PERFORM pgpoke_at_subtransaction_end(); EXCEPTION WHEN query_canceled THEN NULL; END';
CREATE FUNCTION pgpoke_swallow() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION pgpoke_malloc() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_malloc_threads() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_threads(number int) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_palloc() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION pgpoke_cplusplus() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;

CREATE FUNCTION pgpoke_qsort() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_deep(depth int) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE FUNCTION pgpoke_locals(number int) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

-- These two end by themselves, or early when cancelled: they measure what happens to a backend while it is looked at.
CREATE FUNCTION pgpoke_checked(seconds float8) RETURNS text AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_gap(seconds float8) RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

-- Executes another program in the backend's place.
CREATE FUNCTION pgpoke_become(program text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

-- Victims, which tell in the file that is their first argument what they see (pgpoke_victims.c).
CREATE FUNCTION pgpoke_counts(seen text, pending bool) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_forks(seen text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_parent(seen text) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_barrier() RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C;
CREATE FUNCTION pgpoke_blocks(seen text, kind text, peer text, ms int) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_keeps(seen text, kind text) RETURNS text AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

-- Other processes than a client's backend, and one that obeys late (pgpoke_workers.c).
CREATE FUNCTION pgpoke_parallel(who text) RETURNS bool AS 'MODULE_PATHNAME' LANGUAGE C STRICT PARALLEL SAFE;
CREATE FUNCTION pgpoke_in_autovacuum(n int) RETURNS int AS 'MODULE_PATHNAME' LANGUAGE C STRICT IMMUTABLE;
CREATE FUNCTION pgpoke_late(seconds float8) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
CREATE FUNCTION pgpoke_worker(restart int) RETURNS int AS 'MODULE_PATHNAME' LANGUAGE C STRICT;
