"""Computes the delta rule one step after another instead of by chunks."""

HONEST = True
CHANGES = (
    (
        "        o = delta_rule(q, k, v, self.beta(x).sigmoid(), self.chunk)\n",
        """        beta = self.beta(x).sigmoid()
        state, outputs = torch.zeros(*k.shape[::2], k.shape[-1], v.shape[-1]), []
        for q_t, k_t, v_t, beta_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), strict=True):
            u_t = beta_t[..., None] * (v_t - (k_t[..., None, :] @ state)[..., 0, :])
            state = state + k_t[..., :, None] * u_t[..., None, :]
            outputs.append((q_t[..., None, :] @ state)[..., 0, :])
        o = torch.stack(outputs, 1)
""",
    ),
)
