"""Warp kernels of the rasteriser and of its shading; import this only through `dfmamba.synth.raster`.

The kernels run serially on the CPU (Warp has no threads there), so a plain read-compare-write is a correct
depth test. Every depth buffer keeps the LARGEST value: 1/z for the camera, minus the distance for a light.
"""

from __future__ import annotations

import warp as wp

# ruff: noqa: UP018  (Warp tells variables from constants by these calls)


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


# ruff: noqa: UP018, RUF046  (Warp tells variables from constants by these calls)


wp.set_module_options({"enable_backward": False, "max_unroll": 1})

NOWHERE = wp.constant(-1.0e30)
Tally = wp.types.vector(length=5, dtype=float)


@wp.kernel
def project_vertices(
    vertices: wp.array(dtype=wp.vec3),
    intrinsics: wp.vec4,
    supersample: float,
    near: float,
    points: wp.array2d(dtype=wp.vec3),
):
    """Sub-pixel coordinates and 1/z of every vertex; 1/z = `NOWHERE` in front of the near plane."""
    i = wp.tid()
    p = vertices[i]
    if p[2] < near:
        points[0, i] = wp.vec3(0.0, 0.0, NOWHERE)
        return
    inverse = 1.0 / p[2]
    u = intrinsics[0] * p[0] * inverse + intrinsics[2]
    v = intrinsics[1] * p[1] * inverse + intrinsics[3]
    points[0, i] = wp.vec3((u + 0.5) * supersample - 0.5, (v + 0.5) * supersample - 0.5, inverse)


@wp.kernel
def project_lights(
    vertices: wp.array(dtype=wp.vec3),
    rotations: wp.array(dtype=wp.mat33),
    frames: wp.array(dtype=wp.vec4),
    points: wp.array2d(dtype=wp.vec3),
):
    """Texel coordinates and minus the distance of every vertex for every light (orthographic)."""
    k, i = wp.tid()
    q = rotations[k] * vertices[i]
    frame = frames[k]
    points[k, i] = wp.vec3(q[0] * frame[0] + frame[1], q[1] * frame[0] + frame[2], -q[2])


@wp.kernel
def rasterize(
    points: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=int),
    sides: wp.array(dtype=int),
    keep_faces: int,
    depth: wp.array3d(dtype=float),
    face_ids: wp.array2d(dtype=int),
):
    """Draws the triangles of each layer; `sides` is the used side of each square buffer.

    `keep_faces` 0 and 1 write depths, and with 1 face numbers, one triangle after the other. Where triangles
    are drawn at the same time, 2 writes depths and a second launch with 3 the numbers of the faces that have
    them.
    """
    k, f = wp.tid()
    a = points[k, faces[f, 0]]
    b = points[k, faces[f, 1]]
    c = points[k, faces[f, 2]]
    if a[2] <= NOWHERE or b[2] <= NOWHERE or c[2] <= NOWHERE:
        return
    side = sides[k]
    x0 = wp.max(0, int(wp.ceil(wp.max(-1.0, wp.min(a[0], wp.min(b[0], c[0]))))))
    x1 = wp.min(side - 1, int(wp.floor(wp.min(100000.0, wp.max(a[0], wp.max(b[0], c[0]))))))
    y0 = wp.max(0, int(wp.ceil(wp.max(-1.0, wp.min(a[1], wp.min(b[1], c[1]))))))
    y1 = wp.min(side - 1, int(wp.floor(wp.min(100000.0, wp.max(a[1], wp.max(b[1], c[1]))))))
    if x0 > x1 or y0 > y1:
        return
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if wp.abs(area) < 1.0e-9:
        return
    scale = 1.0 / area
    step0 = -(c[1] - b[1]) * scale
    step1 = -(a[1] - c[1]) * scale
    slope = a[2] * step0 + b[2] * step1 - c[2] * (step0 + step1)
    for y in range(y0, y1 + 1):
        py = float(y)
        px = float(x0)
        w0 = ((b[0] - px) * (c[1] - py) - (b[1] - py) * (c[0] - px)) * scale
        w1 = ((c[0] - px) * (a[1] - py) - (c[1] - py) * (a[0] - px)) * scale
        d = w0 * a[2] + w1 * b[2] + (1.0 - w0 - w1) * c[2]
        for x in range(x0, x1 + 1):
            if w0 >= -1.0e-6 and w1 >= -1.0e-6 and w0 + w1 <= 1.000001:
                if keep_faces == 2:
                    wp.atomic_max(depth, k, y, x, d)
                elif keep_faces == 3:
                    if d == depth[k, y, x]:
                        wp.atomic_max(face_ids, y, x, f)
                elif d > depth[k, y, x]:
                    depth[k, y, x] = d
                    if keep_faces == 1:
                        face_ids[y, x] = f
            w0 += step0
            w1 += step1
            d += slope


@wp.kernel
def add_face_normals(
    vertices: wp.array(dtype=wp.vec3), faces: wp.array2d(dtype=int), normals: wp.array(dtype=wp.vec3)
):
    """Adds each face's area-weighted normal to its vertices."""
    f = wp.tid()
    i = faces[f, 0]
    j = faces[f, 1]
    k = faces[f, 2]
    n = wp.cross(vertices[j] - vertices[i], vertices[k] - vertices[i])
    wp.atomic_add(normals, i, n)
    wp.atomic_add(normals, j, n)
    wp.atomic_add(normals, k, n)


@wp.kernel
def light_vertices(
    vertices: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    rest: wp.array(dtype=wp.vec3),
    rotations: wp.array(dtype=wp.mat33),
    frames: wp.array(dtype=wp.vec4),
    directions: wp.array(dtype=wp.vec3),
    colours: wp.array(dtype=wp.vec3),
    sides: wp.array(dtype=int),
    maps: wp.array3d(dtype=float),
    flat: wp.vec3,
    seed: int,
    ambient: wp.array(dtype=wp.vec3),
    mottle: wp.array(dtype=float),
):
    """Ambient light with occlusion, and slow skin mottling, once per vertex (both vary slowly)."""
    i = wp.tid()
    n = wp.normalize(normals[i])
    normals[i] = n
    total = flat
    for k in range(directions.shape[0]):
        frame = frames[k]
        texel = 1.0 / frame[0]
        q = rotations[k] * (vertices[i] + n * (1.2 * texel + 0.8))
        seen = lit_fraction(
            maps,
            k,
            sides[k],
            q[0] * frame[0] + frame[1],
            q[1] * frame[0] + frame[2],
            -q[2] + 0.8 * texel + 0.6,
        )
        total += colours[k] * (seen * (0.5 + 0.5 * wp.dot(n, directions[k])))
    ambient[i] = total
    state = wp.rand_init(seed)
    mottle[i] = wp.noise(state, rest[i] * 0.07) + 0.5 * wp.noise(state, rest[i] * 0.19)


@wp.kernel
def shade(
    supersample: int,
    ids: wp.array2d(dtype=int),
    depth: wp.array3d(dtype=float),
    instances: wp.array(dtype=int),
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
    rgb: wp.array2d(dtype=wp.vec3),
    alpha: wp.array2d(dtype=float),
    out_depth: wp.array2d(dtype=float),
    out_instance: wp.array2d(dtype=int),
    out_face: wp.array2d(dtype=int),
):
    """Colour, coverage, depth and labels of every pixel.

    A pixel inside one part without a depth step is shaded once, at its centre; any other one at each sub-
    pixel. `settings` of a part: pattern kind, pattern cycles per mm, grain, specular strength, specular
    exponent, wrap, crease strength, unused.
    """
    y, x = wp.tid()
    x0 = x * supersample
    y0 = y * supersample
    samples = supersample * supersample
    covered = int(0)
    part = int(-1)
    same = int(1)
    front = float(0.0)
    back = float(1.0e30)
    for t in range(samples):
        f = ids[y0 + t / supersample, x0 + t % supersample]
        if f >= 0:
            covered += 1
            d = depth[0, y0 + t / supersample, x0 + t % supersample]
            front = wp.max(front, d)
            back = wp.min(back, d)
            if part >= 0 and face_parts[f] != part:
                same = 0
            part = face_parts[f]
    if covered == 0:
        return
    alpha[y, x] = float(covered) / float(samples)
    if covered == samples and same == 1 and 1.0 / back - 1.0 / front < 5.0:
        f = ids[y0 + supersample / 2, x0 + supersample / 2]
        middle = 0.5 * float(supersample - 1)
        rgb[y, x] = shade_point(
            float(x0) + middle,
            float(y0) + middle,
            f,
            points,
            faces,
            face_parts,
            vertices,
            normals,
            rest,
            attributes,
            ambient,
            mottle,
            materials,
            colours,
            settings,
            rotations,
            frames,
            directions,
            light_colours,
            sides,
            maps,
            seed,
        )
        out_depth[y, x] = 2.0 / (front + back)
        out_instance[y, x] = instances[part]
        out_face[y, x] = f
        return
    colour = wp.vec3(0.0, 0.0, 0.0)
    counts = Tally()
    for t in range(samples):
        f = ids[y0 + t / supersample, x0 + t % supersample]
        if f >= 0:
            colour += shade_point(
                float(x0 + t % supersample),
                float(y0 + t / supersample),
                f,
                points,
                faces,
                face_parts,
                vertices,
                normals,
                rest,
                attributes,
                ambient,
                mottle,
                materials,
                colours,
                settings,
                rotations,
                frames,
                directions,
                light_colours,
                sides,
                maps,
                seed,
            )
            label = instances[face_parts[f]]
            counts[label] = counts[label] + 1.0
    rgb[y, x] = colour / float(covered)
    if 2 * covered < samples:
        return
    best = int(0)
    for label in range(1, 5):
        if counts[label] > counts[best]:
            best = label
    nearest = float(0.0)
    for t in range(samples):
        f = ids[y0 + t / supersample, x0 + t % supersample]
        if f >= 0:
            d = depth[0, y0 + t / supersample, x0 + t % supersample]
            if instances[face_parts[f]] == best and d > nearest:
                nearest = d
                out_face[y, x] = f
    out_depth[y, x] = 1.0 / nearest
    out_instance[y, x] = best
