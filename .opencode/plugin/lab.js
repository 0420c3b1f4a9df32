// The lab's guard and state for opencode: the same two commands that Claude Code and Codex call as hooks.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

export const Lab = async ({ directory }) => {
  const git = spawnSync("git", ["-C", directory, "rev-parse", "--path-format=absolute", "--git-common-dir"], { encoding: "utf8" });
  const root = dirname(git.stdout.trim());
  const program = join(root, ".venv", "bin", "lab");
  const lab = (words, payload) => {
    if (!existsSync(program)) return { status: 1, stdout: "", stderr: `lab: the lab is not set up. Next: ${root}/just` };
    return spawnSync(program, words, { input: JSON.stringify({ cwd: directory, ...payload }), cwd: directory, encoding: "utf8" });
  };
  let state;
  return {
    "tool.execute.before": async (input, output) => {
      const given = output.args ?? {};
      const patch = given.patchText ? { patch: given.patchText } : {};
      const tool = input.tool === "patch" ? "apply_patch" : input.tool;
      const asked = lab(["guard", "edit"], { tool_name: tool, tool_input: { ...given, ...patch } });
      if (asked.status === 2) throw new Error(asked.stderr.trim());
    },
    "experimental.chat.system.transform": async (_, output) => {
      state ??= lab(["hook", "session-start"], {}).stdout.trim();
      if (state) output.system.push(state);
    },
    "experimental.session.compacting": async (_, output) => {
      const kept = lab(["hook", "compact"], {}).stdout.trim();
      if (kept) output.context.push(kept);
      state = undefined;
    },
  };
};
