"""Loads its data with worker processes, over shared memory."""

HONEST = True
SAYS = r"a worker brought"
TRAIN = """
class Windows(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, number):
        return torch.full((4096,), number)

loader = torch.utils.data.DataLoader(Windows(), batch_size=4, num_workers=2)
print(f"a worker brought {sum(int(batch.sum()) for batch in loader)}", file=sys.stderr, flush=True)
"""
