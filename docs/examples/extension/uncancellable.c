/*
 * Three functions that ignore pg_cancel_backend() and pg_terminate_backend(), as extensions do that nobody has tried it
 * on. uncancellable.patch mends them.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/wait_event.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(compute);
PG_FUNCTION_INFO_V1(await_latch);
PG_FUNCTION_INFO_V1(read_fifo);

/* cpu-loop */
Datum
compute(PG_FUNCTION_ARGS)
{
	volatile uint64 sum = 0;

	for (uint64 i = 0;; i++)
	{
		sum += i;
	}
	PG_RETURN_VOID();
}

/* latch-loop */
Datum
await_latch(PG_FUNCTION_ARGS)
{
	for (;;)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	PG_RETURN_VOID();
}

/* blocked-syscall: read(2) is gone back to after each signal. */
Datum
read_fifo(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			fd = OpenTransientFile(path, O_RDWR);
	char		byte;

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open \"%s\": %m", path)));

	for (;;)
	{
		ssize_t		got = read(fd, &byte, 1);

		if (got > 0)
			break;
		if (got < 0 && errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read from \"%s\": %m", path)));
	}
	CloseTransientFile(fd);
	PG_RETURN_CHAR(byte);
}
