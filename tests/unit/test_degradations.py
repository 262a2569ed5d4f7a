"""Data with degradations: a table, and both published layouts of JSON."""

import json

import pytest

from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.vlm.degradations import read_degradations
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import rows_of

WORDS = [{'image': 'a.jpg', 'distortion_class': 'blur', 'severity': 'moderate'},
         {'image': 'sub/b.jpg', 'distortion_class': 'null', 'severity': 'null'}]
NUMBERS = [{'image_ref': None, 'image_A': 'a.jpg', 'image_B': None, 'distortion_class': 'blur', 'distortion_name': 'blur_lens',
            'severity': 2, 'task_type': 'quality_single_A_noref', 'conversations': [{'from': 'human', 'value': '...'}]},
           {'image_ref': None, 'image_A': 'sub/b.jpg', 'image_B': None, 'distortion_class': None, 'distortion_name': None,
            'severity': 0}]
OTHERS = [{'image_A': 'c.jpg', 'distortion_class': kind, 'severity': 3} for kind in ('brighten', 'pixelate', 'brighten')]


def section(tmp_path, content, name='data.json', **changes):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text)
    return {'name': 'dq', 'type': 'DegradationTable', 'dataroot_target': str(tmp_path), 'meta_info_file': str(tmp_path / name),
            **changes}


@pytest.mark.parametrize(('content', 'name'), [
    (WORDS, 'data.json'), (NUMBERS, 'data.json'), ('\n'.join(map(json.dumps, WORDS)), 'data.jsonl'),
    ('image,distortion_class,severity\na.jpg,blur,moderate\nsub/b.jpg,null,null\n', 'data.csv'),
    ('image;distortion_class;severity\na.jpg;Blur;2\nsub\\b.jpg;null;\n', 'data.txt')],
    ids=['words', 'numbers', 'lines', 'table', 'spreadsheet'])
def test_layouts_that_say_the_same(tmp_path, content, name):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'b.jpg').write_bytes(b'')
    values = section(tmp_path, content, name)
    assert read_degradations('train', values) == [(str(tmp_path / 'a.jpg'), 'blur', 'moderate'),
                                                  (str(tmp_path / 'sub' / 'b.jpg'), 'null', 'null')]
    rows = rows_of('train', values, ReasoningCard(), 0)
    assert [(row.task, row.dataset, row.distortion_class, row.severity) for row in rows] == [
        ('degradation', 'dq', 'blur', 'moderate'), ('degradation', 'dq', 'null', 'null')]


@pytest.mark.parametrize('severity', range(1, 6))
def test_severities_by_number(tmp_path, severity):
    entry = {'image_A': 'a.jpg', 'distortion_class': 'noise', 'severity': severity}
    words = ('slight', 'moderate', 'obvious', 'serious', 'catastrophic')
    assert read_degradations('train', section(tmp_path, [entry]))[0][2] == words[severity - 1]


def test_other_classes_are_left_out_when_asked_for_and_counted(tmp_path, caplog):
    with pytest.raises(DataError, match=r'data.json, entry 3: brighten, obvious; classes are .*other_classes: leave_out'):
        read_degradations('train', section(tmp_path, [*NUMBERS, *OTHERS]))
    assert len(read_degradations('train', section(tmp_path, [*NUMBERS, *OTHERS], other_classes='leave_out'))) == 2
    assert 'datasets: train: 3 of 5 images are of other classes and left out' in caplog.text
    assert '2 brighten, 1 pixelate' in caplog.text
    with pytest.raises(DataError, match='has no image of noise, compression'):
        read_degradations('train', section(tmp_path, OTHERS, other_classes='leave_out'))


@pytest.mark.parametrize(('entries', 'message'), [
    ([{'image': 'a.jpg', 'distortion_class': 'blur'}], 'entry 1: has no "severity"; it has image, distortion_class'),
    ([{'distortion_class': 'blur', 'severity': 'slight'}], 'entry 1: has no "image" with the path of an image'),
    ([{'image': 5, 'distortion_class': 'blur', 'severity': 'slight'}], 'entry 1: has no "image" with the path'),
    ([{'image': 'a', 'distortion_class': 'blur', 'severity': 'strong'}], 'entry 1: blur, strong; classes are'),
    ([{'image': 'a', 'distortion_class': 'blur', 'severity': 6}], 'entry 1: blur, 6'),
    ([{'image': 'a', 'distortion_class': 'blur', 'severity': 0}], 'entry 1: blur, null'),
    ([{'image': 'a', 'distortion_class': 'null', 'severity': 'slight'}], 'entry 1: null, slight'),
    ([{'image': 'a', 'distortion_class': 'blur', 'severity': 1.5}], 'entry 1: blur, 1.5'),
    ([{'image': 'a', 'distortion_class': '', 'severity': 'slight'}], 'entry 1: nothing, slight'),
    ([WORDS[0], {**WORDS[0], 'severity': 'slight'}], 'entry 2: .*a.jpg is degraded by blur, slight, and by blur, moderate at'),
    ({'a.jpg': 'blur'}, 'must be a list of .*distortion_class.* and is a dict'), (['a.jpg'], 'entry 1: .* must be'),
    ('{', 'cannot be read as JSON')])
def test_entries_that_cannot_be_used(tmp_path, entries, message):
    with pytest.raises(DataError, match=message):
        read_degradations('train', section(tmp_path, entries))


def test_the_same_said_twice_is_counted(tmp_path, caplog):
    assert len(read_degradations('train', section(tmp_path, [*WORDS, WORDS[0]]))) == 2
    assert '1 rows say again what an earlier row says' in caplog.text and 'entry 3' in caplog.text


@pytest.mark.parametrize(('changes', 'message'), [
    ({'other_clases': 'leave_out'}, 'unknown key "other_clases".*Did you mean "other_classes"'),
    ({'other_classes': 'drop'}, 'other_classes: "drop" is not one of refuse, leave_out'),
    ({'dataroot_target': None}, 'dataroot_target: must be given')])
def test_options_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(OptionError, match=f'datasets: train: {message}'):
        read_degradations('train', section(tmp_path, WORDS, **changes))
