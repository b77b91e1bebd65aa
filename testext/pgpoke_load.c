/*
 * A backend that gives up being one.
 */
#include "postgres.h"

#include <sys/time.h>
#include <unistd.h>

#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pgpoke_become);

/*
 * Executes another program, with two arguments and room for a title: from then
 * on the postmaster's child is anything but a backend.
 */
Datum
pgpoke_become(PG_FUNCTION_ARGS)
{
	char	   *program = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char		postmaster[16];
	char	   *room = palloc(256);
	struct itimerval none = {{0, 0}, {0, 0}};

	snprintf(postmaster, sizeof postmaster, "%d", (int) getppid());
	memset(room, 'x', 255);
	room[255] = '\0';
	/* An alarm that PostgreSQL has left running (timeout.c) would end the program. */
	setitimer(ITIMER_REAL, &none, NULL);
	execl(program, program, "plain", postmaster, room, (char *) NULL);
	elog(ERROR, "could not execute \"%s\": %m", program);
}
