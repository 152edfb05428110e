// Step-up challenges (RFC 9470) and return paths.

/** The stronger login that a policy asks for. */
export interface Challenge {
  readonly acr_values?: string;
  readonly max_age?: string;
}

const PARAMETER = /([a-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/gi;

/** The challenge in `WWW-Authenticate`; `undefined` if it is another one. */
export function challengeOf(header: string | null): Challenge | undefined {
  const bearer = /(?:^|,\s*)(?:Bearer|DPoP)\s+(.*)$/i.exec(header ?? "")?.[1];
  if (bearer === undefined) return undefined;
  const parameters = new Map<string, string>();
  for (const [, name = "", quoted, plain = ""] of bearer.matchAll(PARAMETER)) {
    const key = name.toLowerCase();
    if (!parameters.has(key)) parameters.set(key, quoted?.replace(/\\(.)/g, "$1") ?? plain);
  }
  if (parameters.get("error") !== "insufficient_user_authentication") return undefined;
  const acr = parameters.get("acr_values");
  const age = parameters.get("max_age");
  return { ...(acr ? { acr_values: acr } : {}), ...(age && /^\d+$/.test(age) ? { max_age: age } : {}) };
}

// a second slash or a backslash would name another host; the gate refuses the other characters
const RETURN_PATH = /^\/(?![/\\])[\x21\x24-\x3b\x3d\x3f-\x5b\x5d-\x7e]*$/;
const RETURN_BYTES = 4_096;

/** The path to return to after a login, within `origin`; `fallback` if `path` could lead anywhere else. */
export function returnPath(path: string, origin: string, fallback: string): string {
  if (path.length > RETURN_BYTES || !RETURN_PATH.test(path)) return fallback;
  try {
    return new URL(path, origin).origin === origin ? path : fallback;
  } catch {
    return fallback;
  }
}
