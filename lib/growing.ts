/** A value while optional properties may still come: for thousands, a spread of what is nearly always nothing is dear. */
export type Growing<T> = { -readonly [K in keyof T]: T[K] }
