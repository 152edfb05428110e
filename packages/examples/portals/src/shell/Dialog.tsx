// A question over the page. The browser's own dialog keeps the focus inside and closes with Escape.
import { type ReactNode, useEffect, useId, useRef } from "react";

export interface DialogProps {
  readonly title: string;
  readonly children: ReactNode;
  /** The text of the button that goes on. */
  readonly confirm: string;
  readonly isDangerous?: boolean;
  readonly onConfirm: () => void;
  readonly onClose: () => void;
}

export function Dialog({ title, children, confirm, isDangerous = false, onConfirm, onClose }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => {
      element?.close();
    };
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={heading} onCancel={onClose}>
      <h2 id={heading}>{title}</h2>
      {children}
      <div className="actions">
        <button className="quiet" onClick={onClose}>
          No, go back
        </button>
        <button className={isDangerous ? "danger" : ""} onClick={onConfirm}>
          {confirm}
        </button>
      </div>
    </dialog>
  );
}
