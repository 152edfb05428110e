export { Auth, type AuthOptions, createAuth, type LoginOptions } from "./auth.ts";
export { type Challenge, challengeOf, returnPath } from "./challenge.ts";
export type { AuthState, Reason, Session } from "./session.ts";
