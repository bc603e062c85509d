"""Decides which host reads which records of TFRecord files, and in which order.

An example: the files `a`, `b` and `c` hold 4, 3 and 5 records, a0..a3, b0..b2 and c0..c4.

Hosts in training. One host reads all 12 records. Of three hosts, each has one of the files for its
own. Two hosts cannot share three files alike: the one with fewer would show its images more often.
So both read all files in the same order, and host 1 takes the records 1, 3, 5, ... of this order.

An epoch in training. The seed and the number of the epoch order the files, say c, a, b. `CYCLE` of
them at a time are read in turns; were `CYCLE` 2, this would give c0 a0 c1 a1 c2 a2 c3 a3 c4 b0 b1
b2. A buffer of `SHUFFLE_BUFFER` records shuffles them.

Resuming a training. After 18 records one host is in epoch 1, of which it has read 6. Say the files'
order is b, c, a. The files in work are b and c, with 8 records: of each, 6 eighths count as read,
2 of b (rounded down) and 3 of c, and reading starts at b2 and c3. A shuffle buffer that is filled
from there alone would show records behind the start sooner than the ones left in the buffer before.
So reading starts up to `SHUFFLE_LEAD` buffers earlier, and as many shuffled records are skipped: in
this small example, 6 records earlier, at b0 and c0.

Evaluation reads a0..a3 b0..b2 c0..c4 in order. Of two hosts, host 0 reads a0..a3 b0 b1 and host 1
the other six. Unless dataset_info.json gives the number of records in each file, the hosts take
turns by record instead.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from utils.reading import dataset_info, records
from utils.reading.records import Segment

import tensorflow.compat.v1 as tf

CYCLE = 16  # files read at a time
SHUFFLE_BUFFER = 1024  # records
MOST_UNEVEN = 0.01  # by how much a host's share may exceed its part
SHUFFLE_LEAD = 4  # shuffle buffers before the start that a resumed training reads first


class Start(NamedTuple):
    """Where a training starts to read, or resumes.

    Attributes:
      epoch: number of the epoch; the first is 0.
      records_read: records of this epoch that the training has had.
    """

    epoch: int
    records_read: int


@dataclasses.dataclass(frozen=True)
class Share:
    """What one host reads in each epoch of a training.

    Attributes:
      segments: the segments of files to read.
      num_hosts: number of hosts that take turns at these segments, record by record.
      host: number of this host among them.
      records_read: records of these segments that the training has had so far, in all epochs.
      counts: number of records of each segment; None if unknown, or not needed.
    """

    segments: list[Segment]
    num_hosts: int
    host: int
    records_read: int
    counts: list[int] | None

    def start(self) -> Start:
        """Returns where the training starts; after an unknown number, with a new epoch."""
        total = sum(self.counts or ())
        # Another order of the files than the last run's has to do if nobody knows the counts.
        return Start(*divmod(self.records_read, total)) if total else Start(self.records_read, 0)

    def paths(self) -> list[str]:
        """Returns the paths of the files, sorted."""
        return sorted({segment.path for segment in self.segments})


def share_of_host(
    all_segments: list[Segment], data_dir: str | None, host: int, num_hosts: int, images_read: int
) -> Share:
    """Returns a host's share of the segments of a training.

    Whole files are shared out, not segments: a segment between two bad records may hold only three
    images. Where a host would have `MOST_UNEVEN` more files than its part, with fewer files than
    hosts for one, all hosts take turns at all records.

    Args:
      all_segments: segments of all files of the split.
      data_dir: folder of the files; its dataset_info.json may give their numbers of records.
      host: number of this host, from 0.
      num_hosts: number of hosts.
      images_read: images that the training has had so far, on all hosts.
    """
    paths = sorted({segment.path for segment in all_segments})
    if is_uneven(len(paths), num_hosts):
        counts = _counts(all_segments, data_dir) if images_read else None
        return Share(all_segments, num_hosts, host, images_read, counts)
    own = set(paths[host::num_hosts])
    of_host = [segment for segment in all_segments if segment.path in own]
    records_read = images_read // num_hosts
    # Counting costs time, and a training that starts at 0 needs no counts.
    counts = _counts(of_host, data_dir) if records_read else None
    return Share(of_host, 1, 0, records_read, counts)


def is_uneven(num_files: int, num_hosts: int) -> bool:
    """Whether whole files would be too uneven shares: 4 files on 3 hosts, 2 and 1 and 1."""
    most = -(-num_files // num_hosts)
    return num_files < num_hosts or most * num_hosts > (1 + MOST_UNEVEN) * num_files


def training_records(share: Share, seed: int | None, parallel: int, cache: bool) -> tf.data.Dataset:
    """Returns a share's records as scalar strings, shuffled anew in each epoch, without end.

    Args:
      share: what this host reads, and how many of these records the training has had.
      seed: fixes the order; None draws another one for each run.
      parallel: most files to read at the same time.
      cache: whether to keep the records in memory.
    """
    start = share.start()
    shuffle_seed = secrets.randbits(31) if seed is None else seed
    if cache:
        dataset = epoch_records(share, seed, parallel).cache()
        dataset = dataset.shuffle(SHUFFLE_BUFFER, shuffle_seed + start.epoch)
        return dataset.repeat().skip(start.records_read // share.num_hosts)
    lead = min(start.records_read, SHUFFLE_LEAD * SHUFFLE_BUFFER * share.num_hosts)

    @tf.autograph.experimental.do_not_convert
    def epoch_from_start(epoch):
        is_first = tf.equal(epoch, start.epoch)
        skipped = tf.where(is_first, start.records_read - lead, 0)
        dataset = epoch_records(share, seed, parallel, epoch, skipped)
        dataset = dataset.shuffle(
            SHUFFLE_BUFFER, shuffle_seed + epoch, reshuffle_each_iteration=False
        )
        lead_of_host = tf.constant(lead // share.num_hosts, tf.int64)
        return dataset.skip(tf.where(is_first, lead_of_host, 0))

    return tf.data.Dataset.range(start.epoch, tf.int64.max).flat_map(epoch_from_start)


def epoch_records(
    share: Share, seed: int | None, parallel: int, epoch=0, records_read=0
) -> tf.data.Dataset:
    """Returns a share's records of one epoch as scalar strings, the files in an order of its own.

    The order of the files follows from the seed and the epoch, so that a training and the one that
    resumes it agree. Hosts that take turns keep one order for all epochs: some of them may have
    cached their records.

    Args:
      share: what this host reads.
      seed: fixes the order within the epoch; None lets the files' speeds have a say in it.
      parallel: most files to read at the same time.
      epoch: number of the epoch, a Python integer or an int64 scalar.
      records_read: records at the beginning of the epoch to leave out, likewise.
    """
    takes_turns = share.num_hosts > 1
    order_seed = (seed or 0, 0 if takes_turns else epoch)
    cycle = min(CYCLE, len(share.segments))
    keys = tf.compat.v2.random.stateless_uniform(
        [len(share.segments)], tf.stack([tf.cast(value, tf.int64) for value in order_seed])
    )
    order = tf.argsort(keys)
    columns = [tf.gather(column, order) for column in records.columns(share.segments)]
    if share.counts is not None:
        counts = tf.gather(tf.constant(share.counts, tf.int64), order)
        columns = _without_read(columns, counts, cycle, tf.cast(records_read, tf.int64))
    dataset = tf.data.Dataset.from_tensor_slices(tuple(columns)).interleave(
        records.records_of,
        cycle_length=cycle,
        num_parallel_calls=min(cycle, parallel),
        deterministic=takes_turns or seed is not None,
    )
    return dataset.shard(share.num_hosts, share.host) if takes_turns else dataset


def _without_read(
    columns: Sequence[tf.Tensor], counts: tf.Tensor, cycle: int, records_read: tf.Tensor
) -> list[tf.Tensor]:
    """Returns what is left of ordered segments after the first `records_read` records.

    `cycle` segments at a time, a block, are in work, and all of them are read at the same pace. The
    blocks before the start are left out; of the block in work, the same share of each segment.

    Args:
      columns: the segments, as `records.columns` returns them.
      counts: int64 vector, the number of records of each segment.
      cycle: number of segments in a block.
      records_read: int64 scalar.
    """
    path, offset, count, skip, compression = columns
    block = tf.range(tf.size(counts)) // cycle
    totals = tf.math.segment_sum(counts, block)
    read = tf.clip_by_value(records_read - tf.cumsum(totals, exclusive=True), 0, totals)
    read = counts * tf.gather(read, block) // tf.maximum(tf.gather(totals, block), 1)
    count = tf.where(count >= 0, count - read, count)
    columns = (path, offset, count, skip + read, compression)
    return [tf.boolean_mask(column, read < counts) for column in columns]


def evaluation_records(
    all_segments: list[Segment], data_dir: str | None, host: int, num_hosts: int
) -> tf.data.Dataset:
    """Returns a host's records of an evaluation as scalar strings, in order, once.

    No host has more than one record more than another. If the counts are known, each host reads its
    own files, and a part of one at either end of its range. If not, all hosts read all files and
    take turns.

    Args:
      all_segments: segments of all files of the split.
      data_dir: folder of the files; its dataset_info.json may give their numbers of records.
      host: number of this host, from 0.
      num_hosts: number of hosts.
    """
    counted = _with_counts(all_segments, data_dir) if num_hosts > 1 else None
    if counted is None:
        return records.dataset(all_segments).shard(num_hosts, host)
    of_host = records.share_of(counted, host, num_hosts)
    if not of_host:  # fewer images than hosts
        return tf.data.Dataset.from_tensor_slices(tf.constant([], tf.string))
    return records.dataset(of_host)


def _counts(some_segments: list[Segment], data_dir: str | None) -> list[int] | None:
    """Returns the number of records of each segment, described or counted; None if unknown."""
    counted = _with_counts(some_segments, data_dir)
    if counted is not None:
        return [segment.count for segment in counted]
    return records.counts([segment.path for segment in some_segments])


def _with_counts(some_segments: list[Segment], data_dir: str | None) -> list[Segment] | None:
    """Returns the segments with their counts from dataset_info.json; None if one is unknown."""
    info = dataset_info.load(data_dir)
    listed = info.shards if info else {}
    counted = [
        segment
        if segment.count >= 0
        else dataclasses.replace(segment, count=listed.get(os.path.basename(segment.path), -1))
        for segment in some_segments
    ]
    return counted if all(segment.count >= 0 for segment in counted) else None
