// Everything that the provider remembers, in one map, so that tests can end sessions and revoke grants from outside.

const values = new Map();

const alive = (entry) => entry && (entry.until === undefined || entry.until > Date.now());

export const remember = (key, payload, seconds) => {
  values.set(key, { payload, until: seconds === undefined ? undefined : Date.now() + seconds * 1000 });
};

/** Of one model: `[id, payload]`. */
export const all = (model) => [...values]
  .filter(([key, entry]) => key.startsWith(`${model}:`) && alive(entry))
  .map(([key, entry]) => [key.slice(model.length + 1), entry.payload]);

export const forget = (key) => values.delete(key);

export function revokeGrant(grant) {
  for (const [key, { payload }] of values) {
    if (payload.grantId === grant) values.delete(key);
  }
}

/** The adapter of `oidc-provider`. */
export class Store {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload, seconds) {
    remember(this.key(id), payload, seconds);
  }

  async find(id) {
    const entry = values.get(this.key(id));
    return alive(entry) ? entry.payload : undefined;
  }

  async findByUid(uid) {
    return all(this.model).find(([, payload]) => payload.uid === uid)?.[1];
  }

  async findByUserCode(code) {
    return all(this.model).find(([, payload]) => payload.userCode === code)?.[1];
  }

  async consume(id) {
    values.get(this.key(id)).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    forget(this.key(id));
  }

  async revokeByGrantId(grant) {
    revokeGrant(grant);
  }
}
