import json
import os

import numpy as np
import pytest
from PIL import Image

from pyiqa_rali.__main__ import main
from pyiqa_rali.core.errors import DataError, OptionError
from pyiqa_rali.core.options import read_yaml
from pyiqa_rali.data.distortions import distort
from pyiqa_rali.data.picture_measures import wording
from pyiqa_rali.data.picture_measures.degrees import FAULTS
from pyiqa_rali.data.picture_measures.write_texts import MeasuredTextOptions, write_measured_texts
from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
from pyiqa_rali.data.synthetic.quality_texts import IMPRESSIONS, PRISTINE_SENTENCES, all_sentences
from pyiqa_rali.data.text_files import part_of
from tests.unit.test_picture_measures import scene


def degrees_of(**named):
    return {name: named.get(name.replace(' ', '_'), 0) for name in FAULTS}


def texts(degrees, grade, count=40):
    return [wording.measured_text(degrees, grade, np.random.default_rng(seed)) for seed in range(count)]


def sentences(text):
    return [f'{sentence}.' for sentence in text.rstrip('.').split('. ')]


@pytest.fixture
def folder(tmp_path):
    """Three pictures: as they are, out of focus, noisy; with a table and an option file."""
    images = tmp_path / 'images'
    images.mkdir()
    for name, kind in (('a.png', None), ('b.png', 'lens_blur'), ('c.png', 'luma_noise')):
        picture = scene() if kind is None else distort(scene(), kind, 5, np.random.default_rng(0))
        Image.fromarray(picture).save(images / name)
    (tmp_path / 'meta.csv').write_text('name,mos,split\na.png,90,train\nb.png,15,train\nc.png,40,val\n')
    (tmp_path / 'opt.yml').write_text(f"""
datasets:
  train: &set {{name: three, type: GeneralNRDataset, dataroot_target: {images}, meta_info_file: {tmp_path / 'meta.csv'},
               split_index: split, mos_range: [0, 100], lower_better: false}}
  val: *set
""")
    return tmp_path


def files(folder):
    return sorted((folder / 'images').iterdir())


def test_every_sentence_is_one_of_the_synthetic_texts():
    pool = set(all_sentences())
    rng = np.random.default_rng(0)
    for seed in range(300):
        degrees = {name: int(rng.integers(0, 5)) if rng.random() < 0.4 else 0 for name in FAULTS}
        grade = None if seed % 3 == 0 else int(rng.integers(0, 10))
        text = wording.measured_text(degrees, grade, rng)
        assert set(sentences(text)) <= pool, text


def test_what_is_wrong_is_named_with_its_degree_and_what_is_fine_is_not_denied():
    found = texts(degrees_of(out_of_focus=4, noise=1), 1)
    assert all('defocus blur' in text for text in found)
    assert all('severe' in text or 'extreme' in text or 'terribl' in text for text in found)
    assert not any('focus is right' in text or 'crisp' in text or 'not noisy' in text or 'no noise' in text for text in found)
    assert all(text.endswith(IMPRESSIONS[1]) for text in found)
    assert len(set(found)) > 30


def test_a_fault_that_people_did_not_mind_is_not_severe():
    assert not any('oversaturated' in text for text in texts(degrees_of(oversaturation=4), 9))
    good = texts(degrees_of(oversaturation=4), 7)
    assert all('slight' in text and 'oversaturated' in text for text in good)
    assert not any('severe' in text or 'natural.' in text for text in good)
    assert wording.known_distortions(degrees_of(oversaturation=4), 9) is None
    assert wording.known_distortions(degrees_of(oversaturation=4), 2) == [('oversaturate', 5.0)]


def test_what_is_known_of_a_picture():
    assert wording.known_distortions(degrees_of(), 8) == [] == wording.known_distortions(degrees_of(), None)
    assert wording.known_distortions(degrees_of(), 3) is None  # people saw a fault that nothing measured
    assert wording.known_distortions(degrees_of(noise=1), None) is None
    assert wording.known_distortions({**degrees_of(), 'out of focus': None}, None) is None
    assert wording.known_distortions(degrees_of(noise=2, blocking=3), None) == [('luma_noise', 3.0), ('jpeg', 4.0)]


def test_a_sound_picture_without_a_verdict_is_called_free_of_faults():
    assert all(set(sentences(text)) <= set(PRISTINE_SENTENCES) for text in texts(degrees_of(), None))
    assert not any(sentence in PRISTINE_SENTENCES for text in texts(degrees_of(), 4) for sentence in sentences(text))


def test_votes_become_sentences():
    rng = np.random.default_rng(0)
    text = wording.voted_text([('jpeg', 0.6, 4.0), ('haze', 0.3, 2.0), ('darken', 0.05, 3.0)], 2, rng)
    assert 'JPEG blocking' in text and 'haze' in text and 'darkness' not in text
    assert text.endswith(IMPRESSIONS[2])
    assert set(sentences(wording.voted_text([('pristine', 0.9, None)], None, rng))) <= set(PRISTINE_SENTENCES)
    assert wording.voted_text([('jpeg', 0.05, 3.0)], None, rng) is None
    assert 'severe' not in wording.voted_text([('jpeg', 0.9, 5.0)], 8, rng)


def test_votes_do_not_praise_what_they_cannot_say_or_people_found_poor():
    """A bank of people's texts has their own classes: a picture that is voted blurred was called free of faults."""
    rng = np.random.default_rng(0)
    assert wording.voted_text([('motion blur', 0.6, 3.0), ('out of focus', 0.4, 3.0)], None, rng) is None
    assert wording.voted_text([('pristine', 0.9, None)], 6, rng) is None
    assert wording.voted_text([('pristine', 0.9, None)], 7, rng).endswith(IMPRESSIONS[7])


def test_a_file_of_texts_is_what_the_trainer_reads(folder):
    options = MeasuredTextOptions(texts_per_image=6, verdict='label')
    report = write_measured_texts(files(folder), folder / 'texts.jsonl', options, [0.9, 0.15, 0.4])
    found = load_reasoning_texts(folder / 'texts.jsonl')
    assert list(found) == ['a.png', 'b.png', 'c.png'] and report.texts == sum(map(len, found.values()))
    assert join_texts([str(path) for path in files(folder)], found)[1] == found['b.png']
    assert {text.model for text in found['b.png']} == {'pyiqa_rali measures + MOS'}
    assert 'lens_blur' in dict(found['b.png'][0].distortions)
    assert 'luma_noise' in dict(found['c.png'][0].distortions)
    assert all(text.text.endswith(IMPRESSIONS[9]) for text in found['a.png'])


def test_the_verdict_by_rank(folder):
    write_measured_texts(files(folder), folder / 'texts.jsonl', MeasuredTextOptions(verdict='rank'), [0.5, 0.1, 0.2])
    found = load_reasoning_texts(folder / 'texts.jsonl')
    grades = {name: next(grade for grade in range(10) if of_image[0].text.endswith(IMPRESSIONS[grade]))
              for name, of_image in found.items()}
    assert grades == {'a.png': 8, 'b.png': 1, 'c.png': 5}


def test_half_of_the_texts_are_the_banks(folder):
    write_measured_texts(files(folder), folder / 'texts.jsonl', MeasuredTextOptions(4),
                         votes=lambda pixels: [('haze', 1.0, 3.0)])
    found = load_reasoning_texts(folder / 'texts.jsonl')['b.png']
    assert [text.model for text in found] == ['pyiqa_rali measures', 'pyiqa_rali bank votes'] * 2
    assert ['haze' in text.text for text in found] == [False, True] * 2


def test_a_stopped_run_continues_to_the_same_bytes(folder, monkeypatch):
    whole, stopped = folder / 'whole.jsonl', folder / 'stopped.jsonl'
    write_measured_texts(files(folder), whole, MeasuredTextOptions())
    from pyiqa_rali.data.picture_measures import write_texts
    monkeypatch.setattr(write_texts, 'AT_ONCE', 1)
    measure, seen = write_texts.measure_picture, []

    def stop_at_the_third(pixels):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return measure(pixels)
    monkeypatch.setattr(write_texts, 'measure_picture', stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_measured_texts(files(folder), stopped, MeasuredTextOptions())
    assert not stopped.exists() and len(part_of(stopped).read_text().splitlines()) == 2
    write_measured_texts(files(folder), stopped, MeasuredTextOptions())
    assert stopped.read_bytes() == whole.read_bytes() and len(seen) == 4
    with pytest.raises(OptionError, match='begun with another seed: 0, now 1'):
        write_measured_texts(files(folder), stopped, MeasuredTextOptions(seed=1))


def test_texts_on_a_picture_that_has_changed_are_written_anew(folder, caplog):
    out, other = folder / 'texts.jsonl', folder / 'other.jsonl'
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    written, record = out.read_bytes(), json.loads((folder / 'texts.jsonl.json').read_text())
    assert record['images'].keys() == {'a.png', 'b.png', 'c.png'}
    os.utime(folder / 'images' / 'a.png', ns=(1, 1))
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert out.read_bytes() == written and not caplog.records
    (folder / 'images' / 'b.png').write_bytes((folder / 'images' / 'c.png').read_bytes())
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert f'{out}: 1 of its 3 images have changed since their texts were written: b.png. Their texts are' in caplog.text
    write_measured_texts(files(folder), other, MeasuredTextOptions())
    assert out.read_bytes() == other.read_bytes() != written
    assert json.loads((folder / 'texts.jsonl.json').read_text()) == json.loads((folder / 'other.jsonl.json').read_text())
    before, after = ([line for line in content.splitlines() if b'b.png' not in line] for content in (written, out.read_bytes()))
    assert before == after


def test_a_picture_that_has_changed_is_written_about_anew_by_a_run_that_was_stopped(folder, monkeypatch, caplog):
    from pyiqa_rali.data.picture_measures import write_texts
    out, other = folder / 'texts.jsonl', folder / 'other.jsonl'
    monkeypatch.setattr(write_texts, 'AT_ONCE', 1)
    measure = write_texts.measure_picture

    def stop_at(count):
        seen = []
        monkeypatch.setattr(write_texts, 'measure_picture', lambda pixels: seen.append(1) or (
            measure(pixels) if len(seen) < count else pytest.fail('stopped')))
    stop_at(3)
    with pytest.raises(pytest.fail.Exception):
        write_measured_texts(files(folder), out, MeasuredTextOptions())
    for name in ('a.png', 'c.png'):  # one of them is written about already
        (folder / 'images' / name).write_bytes((folder / 'images' / 'b.png').read_bytes())
    stop_at(1)
    with pytest.raises(pytest.fail.Exception):  # and the change is not forgotten by a run that does not come to it
        write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert '1 of its 2 images have changed' in caplog.text and 'a.png' in caplog.text
    stop_at(9)
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    write_measured_texts(files(folder), other, MeasuredTextOptions())
    assert out.read_bytes() == other.read_bytes()


def test_texts_of_files_without_digests_are_kept_with_a_warning_and_watched_from_then_on(folder, caplog):
    out, record = folder / 'texts.jsonl', folder / 'texts.jsonl.json'
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    record.write_text(json.dumps({'settings': json.loads(record.read_text())['settings']}))
    written = out.read_bytes()
    (folder / 'images' / 'b.png').write_bytes((folder / 'images' / 'c.png').read_bytes())
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert out.read_bytes() == written
    assert 'it is not recorded of which files the texts on 3 of its 3 images are' in caplog.text
    assert 'Remove the file if pictures have changed' in caplog.text
    caplog.clear()
    (folder / 'images' / 'b.png').write_bytes((folder / 'images' / 'a.png').read_bytes())
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert out.read_bytes() != written and 'not recorded' not in caplog.text and '1 of its 3 images have changed' in caplog.text


def test_a_name_that_is_not_valid_utf8_is_watched_too(folder, caplog):
    picture = folder / 'images' / os.fsdecode(b'\xe9.png')
    picture.write_bytes((folder / 'images' / 'a.png').read_bytes())
    out = folder / 'texts.jsonl'
    for _ in range(2):
        write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert not caplog.records
    picture.write_bytes((folder / 'images' / 'c.png').read_bytes())
    write_measured_texts(files(folder), out, MeasuredTextOptions())
    assert '1 of its 4 images have changed' in caplog.text


def test_the_command_tells_what_has_changed(folder, capsys):
    arguments = ['measure-texts', str(folder / 'images'), '--out', str(folder / 'texts.jsonl')]
    assert main(arguments) == 0
    (folder / 'images' / 'b.png').write_bytes((folder / 'images' / 'c.png').read_bytes())
    assert main(arguments) == 0
    assert '1 of its 3 images have changed since their texts were written: b.png' in capsys.readouterr().err
    (folder / 'images' / 'd.png').symlink_to(folder / 'nowhere.png')
    assert main(arguments) == 2
    assert 'd.png: cannot be read as an image (No such file or directory). Fix or remove it' in capsys.readouterr().err


def test_pictures_that_are_measured_already_are_not_measured_again(folder, monkeypatch, capsys):
    assert main(['measure', str(folder / 'images'), '--out', str(folder / 'm')]) == 0
    arguments = ['measure-texts', str(folder / 'images'), '--out']
    assert main([*arguments, str(folder / 'whole.jsonl')]) == 0
    from pyiqa_rali.data.picture_measures import write_texts
    monkeypatch.setattr(write_texts, 'measure_picture', lambda pixels: pytest.fail('measured again'))
    measured = ['--measures', str(folder / 'm' / 'pictures.jsonl')]
    assert main([*arguments, str(folder / 'again.jsonl'), *measured]) == 0
    assert (folder / 'again.jsonl').read_bytes() == (folder / 'whole.jsonl').read_bytes()
    (folder / 'images' / 'b.png').write_bytes((folder / 'images' / 'a.png').read_bytes())
    assert main([*arguments, str(folder / 'third.jsonl'), *measured]) == 2
    assert 'b.png: the measures under this name are of another file. Measure again.' in capsys.readouterr().err


def test_what_cannot_be_written(folder):
    with pytest.raises(OptionError, match='verdict: label needs the MOS of the images; these have none'):
        write_measured_texts(files(folder), folder / 'x.jsonl', MeasuredTextOptions(verdict='label'))
    with pytest.raises(OptionError, match='verdict: "mos" is not one of none, label, rank'):
        MeasuredTextOptions(verdict='mos')
    (folder / 'images' / 'd.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match=r'd.png: cannot be read as an image'):
        write_measured_texts(files(folder), folder / 'x.jsonl', MeasuredTextOptions())


def test_the_command_tells_no_mos_of_validation_images(folder, capsys):
    arguments = ['measure-texts', '--opt', str(folder / 'opt.yml'), '--out', str(folder / 'texts.jsonl')]
    assert main(arguments) == 0
    assert set(load_reasoning_texts(folder / 'texts.jsonl')) == {'a.png', 'b.png'}
    val = [*arguments[:-1], str(folder / 'val.jsonl'), '--dataset', 'val']
    assert main(val) == 2
    assert '"val" takes images of the phase val, and texts with a verdict tell their MOS' in capsys.readouterr().err
    assert main([*val, '--verdict', 'none']) == 0
    assert load_reasoning_texts(folder / 'val.jsonl')['c.png'][0].model == 'pyiqa_rali measures'
    assert main([*val[:4], str(folder / 'asked.jsonl'), *val[5:], '--verdict-on-any-phase']) == 0
    assert load_reasoning_texts(folder / 'asked.jsonl')['c.png'][0].model == 'pyiqa_rali measures + MOS'


def test_an_image_that_is_in_the_table_twice_is_written_on_once(folder):
    table = folder / 'meta.csv'
    table.write_text(table.read_text() + 'a.png,90,train\n')
    assert main(['measure-texts', '--opt', str(folder / 'opt.yml'), '--out', str(folder / 'texts.jsonl')]) == 0
    assert set(load_reasoning_texts(folder / 'texts.jsonl')) == {'a.png', 'b.png'}
    from pyiqa_rali.vlm.tables import image_files, known_distortions
    section = read_yaml(folder / 'opt.yml')['datasets']['train']
    assert [path.name for path in image_files('train', section, 0)] == ['a.png', 'b.png']
    assert known_distortions('train', section, 0) == [None, None]


def test_measures_are_compared_with_mos_and_people(folder, capsys):
    from pyiqa_rali.studies.picture_measures import area_under_roc, auc_against_people, auc_of_votes, srcc_with_mos
    said = folder / 'people.jsonl'
    said.write_text(''.join(json.dumps({'image': name, 'distortions': pairs, 'texts': [
        {'text': 'There is noise.', 'seed': 0, 'model': 'people'}]}) + '\n' for name, pairs in (
            ('a.png', []), ('b.png', [['out of focus', 4.0]]), ('c.png', [['noise and artifact', 2.0]]))))
    arguments = ['measure', '--opt', str(folder / 'opt.yml'), '--out', str(folder / 'm'), '--annotations', str(said)]
    assert main(arguments) == 0 == main(arguments)
    assert 'the measures of 2 pictures' in capsys.readouterr().out
    results = json.loads((folder / 'm' / 'results.json').read_text())
    assert results == {'pictures': 2, 'srcc': {}, 'auc': {}}  # too few to tell
    assert len((folder / 'm' / 'pictures.jsonl').read_text().splitlines()) == 2
    from pyiqa_rali.data.picture_measures import MEASURES
    columns = {name: np.arange(20.0) for name in MEASURES}
    columns['cast'], columns['noise'] = np.r_[np.full(12, np.nan), np.arange(8.0)], -np.arange(20.0)
    found = srcc_with_mos(columns, np.arange(20.0))
    assert 'cast' not in found and found['noise'] == -1 and found['saturation'] == 1
    found = auc_against_people(columns, [[]] * 10 + [[('out of focus', 3.0)]] * 10)
    assert found['out of focus']['edge_spread'] == 1 and found['out of focus']['noise'] == 0
    votes = auc_of_votes([{'jpeg': 0.9, 'lens_blur': 0.1}] * 10 + [{'zoom_blur': 0.2, 'resample': 0.3}] * 10,
                         [[]] * 10 + [[('out of focus', 3.0)]] * 10)
    assert votes == {'out of focus': 1.0}
    with pytest.raises(DataError, match='annotations: some images have no distortions'):
        auc_of_votes([{}, {}], [None, []])
    assert area_under_roc(np.array([1.0, 1, 1]), np.array([True, False, False])) == 0.5


def test_texts_of_people_are_taken_as_they_are(folder):
    """As MMP-2k has them: other names of faults, three levels, a text that ends with a blank."""
    import torch

    from pyiqa_rali.model.text_bank import TextBank
    said = folder / 'people.jsonl'
    said.write_text(''.join(json.dumps({'image': name, 'distortions': pairs, 'texts': [
        {'text': text, 'seed': 0, 'model': 'people (MMP-2k)'}]}) + '\n' for name, pairs, text in (
            ('a.png', [], 'The image is good in quality. '),
            ('b.png', [['underexposure', 2.0], ['out of focus', 3.0]], 'There is medium out of focus in the center.'),
            ('c.png', [['noise and artifact', 4.0]], 'There is strong noise and artifact in the entire image.'))))
    found = join_texts([str(path) for path in files(folder)], load_reasoning_texts(said))
    bank = TextBank({'texts': [each[0].text for each in found], 'distortions': [each[0].distortions for each in found],
                     'seeds': [0, 0, 0], 'models': ['people (MMP-2k)'] * 3, 'temperature': 0.02}, 3)
    bank.text_features.copy_(torch.eye(3))
    assert bank.classes == ['noise and artifact', 'out of focus', 'pristine', 'underexposure']
    shares, levels = bank.vote(bank.cosines(torch.tensor([[0.0, 1.0, 0.0]])))
    assert shares[0].tolist() == pytest.approx([0, 0.5, 0, 0.5], abs=1e-6)
    assert levels[0, 1] == 3
