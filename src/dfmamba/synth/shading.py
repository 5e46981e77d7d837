"""Light and colour of a point, as Warp functions of the rasteriser's kernels.

They belong to no compiled module of their own: Warp compiles them into `dfmamba.synth.kernels`, with
its options. Import this module only through `dfmamba.synth.raster`.
"""
# ruff: noqa: UP018  (Warp tells variables from constants by these calls)

import warp as wp


@wp.func
def lit_fraction(maps: wp.array3d(dtype=float), k: int, side: int, u: float, v: float, d: float) -> float:
    """Share of the light that reaches a point: 3x3 comparisons, bilinear between texels."""
    x = int(wp.floor(u))
    y = int(wp.floor(v))
    fx = u - float(x)
    fy = v - float(y)
    total = float(0.0)
    for dy in range(4):
        wy = float(1.0)
        if dy == 0:
            wy = 1.0 - fy
        if dy == 3:
            wy = fy
        yy = wp.clamp(y + dy - 1, 0, side - 1)
        row = float(0.0)
        for dx in range(4):
            if maps[k, yy, wp.clamp(x + dx - 1, 0, side - 1)] <= d:
                if dx == 0:
                    row += 1.0 - fx
                elif dx == 3:
                    row += fx
                else:
                    row += 1.0
        total += row * wy
    return total / 9.0


@wp.func
def diffuse_colour(
    part: int,
    material: int,
    colours: wp.array2d(dtype=wp.vec3),
    settings: wp.array2d(dtype=float),
    r: wp.vec3,
    at: wp.vec4,
    slow: float,
    seed: int,
) -> wp.vec3:
    """Albedo of a point from its rest position, attributes and mottling."""
    albedo = colours[part, 0]
    grain = settings[part, 2]
    if material == 0:
        nail = wp.clamp(1.6 * at[1] - 0.3, 0.0, 1.0)
        albedo = albedo * (1.0 - at[0]) + colours[part, 1] * at[0]
        albedo = albedo * (1.0 + 1.6 * grain * slow) + colours[part, 3] * (at[2] + 0.3 * slow)
        crease = settings[part, 6] * (0.15 + 0.85 * at[0]) * (1.0 - nail)
        if crease > 0.02:
            state = wp.rand_init(seed)
            ridge = wp.abs(wp.noise(state, wp.vec3(r[0] * 0.02, r[1] * 0.035, r[2] * 0.035)))
            crease = crease * wp.max(0.0, 1.0 - ridge * 14.0)
            albedo = wp.cw_mul(albedo, wp.vec3(1.0 - 0.6 * crease, 1.0 - crease, 1.0 - crease))
        return albedo * (1.0 - nail) + colours[part, 2] * nail
    state = wp.rand_init(seed + 7919 * part)
    kind = int(settings[part, 0])
    cycles = settings[part, 1]
    axis = colours[part, 2]
    along = wp.dot(r, axis) * cycles
    mix = float(0.0)
    if kind == 1:
        mix = wp.clamp(0.5 + 3.0 * wp.sin(6.2831853 * along), 0.0, 1.0)
    if kind == 2:
        across = wp.dot(r, wp.vec3(axis[1], axis[2], axis[0])) * cycles
        mix = wp.clamp(0.5 + 4.0 * wp.sin(6.2831853 * along) * wp.sin(6.2831853 * across), 0.0, 1.0)
    if kind == 3:
        mix = wp.clamp(0.5 + 1.6 * wp.noise(state, r * cycles), 0.0, 1.0)
    albedo = albedo * (1.0 - mix * at[3]) + colours[part, 1] * (mix * at[3])
    return albedo * (1.0 + grain * wp.noise(state, r * 0.08))


@wp.func
def shade_point(
    px: float,
    py: float,
    f: int,
    points: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=int),
    face_parts: wp.array(dtype=int),
    vertices: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    rest: wp.array(dtype=wp.vec3),
    attributes: wp.array(dtype=wp.vec4),
    ambient: wp.array(dtype=wp.vec3),
    mottle: wp.array(dtype=float),
    materials: wp.array(dtype=int),
    colours: wp.array2d(dtype=wp.vec3),
    settings: wp.array2d(dtype=float),
    rotations: wp.array(dtype=wp.mat33),
    frames: wp.array(dtype=wp.vec4),
    directions: wp.array(dtype=wp.vec3),
    light_colours: wp.array(dtype=wp.vec3),
    sides: wp.array(dtype=int),
    maps: wp.array3d(dtype=float),
    seed: int,
) -> wp.vec3:
    """Linear colour of face f at a position in sub-pixels."""
    i = faces[f, 0]
    j = faces[f, 1]
    k = faces[f, 2]
    a = points[0, i]
    b = points[0, j]
    c = points[0, k]
    scale = 1.0 / ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
    w0 = wp.clamp(((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) * scale, 0.0, 1.0)
    w1 = wp.clamp(((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) * scale, 0.0, 1.0)
    w2 = wp.max(0.0, 1.0 - w0 - w1) * c[2]
    w0 = w0 * a[2]
    w1 = w1 * b[2]
    total = 1.0 / (w0 + w1 + w2)
    w0 = w0 * total
    w1 = w1 * total
    w2 = w2 * total
    p = vertices[i] * w0 + vertices[j] * w1 + vertices[k] * w2
    n = wp.normalize(normals[i] * w0 + normals[j] * w1 + normals[k] * w2)
    at = attributes[i] * w0 + attributes[j] * w1 + attributes[k] * w2
    view = wp.normalize(p)
    facing = wp.dot(n, view)
    if facing > 0.0:
        n = wp.normalize(n - view * (1.02 * facing))
        facing = wp.dot(n, view)
    part = face_parts[f]
    gloss = settings[part, 3]
    exponent = settings[part, 4]
    wrap = settings[part, 5]
    albedo = diffuse_colour(
        part,
        materials[part],
        colours,
        settings,
        rest[i] * w0 + rest[j] * w1 + rest[k] * w2,
        at,
        mottle[i] * w0 + mottle[j] * w1 + mottle[k] * w2,
        seed,
    )
    if materials[part] == 0:
        gloss = gloss * (1.0 + 2.0 * at[1])
        exponent = exponent * (1.0 + 2.0 * at[1])
    colour = wp.cw_mul(albedo, ambient[i] * w0 + ambient[j] * w1 + ambient[k] * w2)
    away = wp.max(0.0, 1.0 + facing)
    fresnel = 0.04 + 0.96 * away * away * away * away * away
    for m in range(directions.shape[0]):
        to_light = directions[m]
        lambert = wp.dot(n, to_light)
        if lambert + wrap > 0.0:
            red = (lambert + wrap) / (1.0 + wrap)
            green = wp.max(0.0, (lambert + 0.4 * wrap) / (1.0 + 0.4 * wrap))
            blue = wp.max(0.0, (lambert + 0.25 * wrap) / (1.0 + 0.25 * wrap))
            frame = frames[m]
            texel = 1.0 / frame[0]
            q = rotations[m] * (p + n * (1.2 * texel + 0.8))
            seen = lit_fraction(
                maps,
                m,
                sides[m],
                q[0] * frame[0] + frame[1],
                q[1] * frame[0] + frame[2],
                -q[2] + 0.8 * texel + 0.6,
            )
            if seen > 0.0:
                lit = wp.cw_mul(albedo, wp.vec3(red, green, blue))
                along = wp.dot(n, wp.normalize(to_light - view))
                if lambert > 0.0 and along > 0.5:
                    shine = gloss * fresnel * (exponent + 8.0) * 0.125 * wp.pow(along, exponent) * lambert
                    lit += wp.vec3(shine, shine, shine)
                colour += wp.cw_mul(lit, light_colours[m]) * seen
    return colour
