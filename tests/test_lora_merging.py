@pytest.mark.parametrize("name", BASES)
def test_export_merged_into_its_base(made, name, tmp_path):
    """The folder has the sums in the base's own precision, draws what base and LoRA draw, and takes no LoRA of another base."""
    settings, base, trained = made(name)
    settings = settings.but(num_inference_steps=2)
    folder = merge(trained, settings)
    assert folder == settings.folder / "merged" and str(tmp_path) not in "".join(
        path.read_text(encoding="utf-8") for path in folder.rglob("*.json")
    )
    merged = bases.get(str(folder))
    merged.check()
    plain, found = (
        load_file(base.weight_files("unet")[0]),
        load_file(merged.weight_files("unet")[0]),
    )
    assert found.keys() == plain.keys() and all(
        found[key].dtype == plain[key].dtype for key in plain
    )
    changed = {
        key.removesuffix(".weight") for key in plain if not torch.equal(plain[key], found[key])
    }
    assert changed == {module_name(key) for key in lora.modules(trained.path)}
    pictures = [
        render(
            Story(["a girl"]), settings.but(base=where, output=str(tmp_path / str(number))), what
        ).paths[0]
        for number, (where, what) in enumerate(((name, trained), (str(folder), None)))
    ]
    one, other = (np.asarray(Image.open(path), int) for path in pictures)
    assert np.abs(one - other).max() <= 2
    with pytest.raises(LoraError, match=f"was trained on the base '{name}'"):
        merge(trained, settings.but(base="mini"), tmp_path / "other")
    with pytest.raises(LoraError, match="There is no LoRA at"):
        merge(tmp_path / "none.safetensors", settings)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_export_merged_with_text_encoders(hub, make_settings, tmp_path, name):
    base, settings, path = (
        hub(name),
        make_settings(base=name, num_inference_steps=2),
        tmp_path / "lora.safetensors",
    )
    tiny.whole_lora(base, path, alphas=(3.0, 0.7), ranks=(4, 2))
    folder = merge(path, settings)
    merged = bases.get(str(folder))
    merged.check()
    for component in base.components:
        plain, found = (
            {
                key: tensor
                for file in each.weight_files(component)
                for key, tensor in load_file(file).items()
            }
            for each in (base, merged)
        )
        assert found.keys() >= {key for key in plain if not key.endswith("position_ids")} and all(
            found[key].dtype == plain[key].dtype for key in found
        )
        changed = {
            lora.module_key(component, key.removesuffix(".weight"))
            for key in found
            if not torch.equal(plain[key], found[key])
        }
        assert changed == {
            place for place in map(lora.module_key_of, lora.modules(path)) if place[0] == component
        }
    pictures = [
        render(
            Story(["a (girl:1.3)"]),
            settings.but(base=where, output=str(tmp_path / str(number))),
            what,
        ).paths[0]
        for number, (where, what) in enumerate(((name, path), (str(folder), None), (name, None)))
    ]
    one, other, without = (np.asarray(Image.open(path), int) for path in pictures)
    assert np.abs(one - other).max() <= 2 < np.abs(one - without).max()
