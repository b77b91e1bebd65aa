/*
 * A C++ function with something to clean up on its way out.
 */
static volatile int cleaned_up;

namespace
{
struct Guard
{
	~Guard()
	{
		cleaned_up = cleaned_up + 1;
	}
};
}

extern "C" void
pgpoke_with_destructor(void (*function) (void))
{
	Guard		guard;

	function();
}
