#pragma once

/** For what is on the way of each quick call: a call costs more there than what it does, and all else is compiled to be small. */
#define VFIO_INLINE [[gnu::always_inline]] inline
