// The types of a portal's contract. `cedargate schema types --ts` generates them from the portal's schema; with them a
// misspelt action is a compile error.

/** What the gate says of an action: for certain, or "conditional" where it needs to know more. */
export type Verdict = "allow" | "deny" | "conditional";

/** The value of a feature flag. */
export type FlagValue = boolean | string | number;

/** A portal's contract: its actions with the types they apply to, its flags, and the attributes of its types. */
export interface Contract {
  readonly resources: object;
  readonly flag: string;
  /** The value of each flag. */
  readonly flags: object;
  readonly attrs: object;
}

/** The contract of a portal without generated types: every text is an action, a type or a flag. */
export interface AnyContract extends Contract {
  readonly resources: Readonly<Record<string, string>>;
  readonly flag: string;
  readonly flags: Readonly<Record<string, FlagValue>>;
  readonly attrs: Readonly<Record<string, object>>;
}

/**
 * The generated interfaces `Resources` and `Attrs` and the type `Flags`, as one contract. The type `Flag` in its place has the
 * names alone.
 */
export interface ContractOf<
  Resources extends object,
  Flags extends string | object,
  Attrs extends object,
> extends Contract {
  readonly resources: Resources;
  readonly flag: Flags extends string ? Flags : keyof Flags & string;
  readonly flags: Flags extends string ? Readonly<Record<Flags, FlagValue>> : Flags & object;
  readonly attrs: Attrs;
}

/** The value of one flag. */
export type FlagOf<C extends Contract, N extends C["flag"]> = N extends keyof C["flags"] ? C["flags"][N] : FlagValue;

/** The names of a contract's actions. */
export type ActionOf<C extends Contract> = keyof C["resources"] & string;

/** The types of the resources that an action applies to. */
export type TypeOf<C extends Contract, A extends ActionOf<C> = ActionOf<C>> = C["resources"][A] & string;

/** The attributes of a type, as far as the caller states them. */
export type AttrsOf<C extends Contract, T extends string> = T extends keyof C["attrs"]
  ? Partial<C["attrs"][T]>
  : Readonly<Record<string, unknown>>;

/** One resource. `attrs` describes a resource that the gate does not store; what the gate stores wins. */
export interface ResourceOf<C extends Contract, T extends string = TypeOf<C>> {
  readonly type: T;
  readonly id: string;
  readonly attrs?: AttrsOf<C, T>;
}

/** A resource without generated types. */
export type Resource = ResourceOf<AnyContract>;
