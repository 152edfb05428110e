// The frame of every page: name of the portal, navigation, and who is logged in.
import { type ReactNode, useEffect, useState } from "react";
import { Link, NavLink, Outlet, useLocation, useNavigation } from "react-router";

import { usePortal, useSession } from "./context.ts";

export interface FrameProps {
  readonly title: string;
  /** The links of the navigation; each is gated by what its page needs. */
  readonly children: ReactNode;
}

export function Frame({ title, children }: FrameProps) {
  const { state } = useNavigation();
  const { pathname } = useLocation();
  // each page names the browser's tab by its heading, so that tabs and the history can be told apart
  useEffect(() => {
    const heading = document.querySelector("main h1")?.textContent;
    document.title = heading ? `${heading} · ${title}` : title;
  }, [pathname, state, title]);
  return (
    <>
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <header>
        <Link className="brand" to="/">
          <span className="mark" aria-hidden="true" />
          {title}
        </Link>
        <nav aria-label="Pages">
          <ul>
            {children}
            <NavItem to="/me">My account</NavItem>
          </ul>
        </nav>
        <LoggedIn />
      </header>
      <div className="page" aria-busy={state !== "idle"}>
        <Outlet />
      </div>
    </>
  );
}

interface NavItemProps {
  readonly to: string;
  readonly children: ReactNode;
}

export function NavItem({ to, children }: NavItemProps) {
  return (
    <li>
      <NavLink to={to}>{children}</NavLink>
    </li>
  );
}

function LoggedIn() {
  const { auth } = usePortal();
  const session = useSession();
  const [problem, setProblem] = useState<string>();
  const logout = () => {
    auth.logout().catch(() => {
      setProblem("You are still logged in: the gate does not answer. Please try again.");
    });
  };
  if (!session) return null;
  return (
    <div className="who">
      <span>
        {session.name ?? session.subject}
        {session.tenant !== undefined && <span className="tenant">{session.tenant}</span>}
      </span>
      <button className="quiet" onClick={logout}>
        Log out
      </button>
      {problem !== undefined && <p role="alert">{problem}</p>}
    </div>
  );
}
