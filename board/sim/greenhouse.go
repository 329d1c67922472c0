package sim

import (
	"math"
	"math/rand/v2"
)

// The house: 12 m² of beds under 40 m² of polycarbonate.
const (
	wholeStep   = 1.0  // s of simulated time; the shortest time constant is above 100 s
	weatherTime = 60.0 // s between two changes of the weather

	bedArea      = 12.0   // m²
	airVolume    = 30.0   // m³
	heatCapacity = 120e3  // J/K: the air, the plants and what stands about
	coverLoss    = 180.0  // W/K through the cover
	airHeat      = 1207.0 // J/(m³ K) of air at 20 °C
	latentHeat   = 2450.0 // J/g of water at 20 °C
	solarGain    = 0.42   // of the sun on the beds: what the cover lets through and does not leave again

	leak     = 2.0 / 3600 * airVolume  // m³/s: two changes an hour through the gaps
	ventFlow = 40.0 / 3600 * airVolume // m³/s, fully open
	fanFlow  = 25.0 / 3600 * airVolume // m³/s
	doorFlow = 10.0 / 3600 * airVolume // m³/s

	ventTravel  = 20.0   // s from closed to open
	heaterPower = 3000.0 // W
	lampPower   = 400.0  // W, all of it heat in the end

	transpiration = 0.0015 // m/s: g/s of water per m² of bed and g/m³ missing to saturation
	soilMass      = 3000.0 // kg of water that would fill the beds: 12 m², 25 cm deep
	fieldCapacity = 0.45   // of it; what is above drains
	saturation    = 0.60   // of it; no more goes in
	drainTime     = 1800.0 // s

	pumpFlow   = 0.3   // kg/s
	tankMass   = 600.0 // kg
	tankRefill = 0.01  // kg/s from the roof
	floatLevel = 0.1   // of the tank: below it the float hangs

	outsideHumidity = 0.7
	doorOpenTime    = 90.0 // s
	longest         = 7 * 24 * 3600.0
)

// controls are the switched devices.
type controls struct{ heater, vent, fan, pump, lamp bool }

// greenhouse is the state of the house. It moves in steps of equal length, so that it does not
// matter how often anybody looks, and all chance comes from rng, so that a seed says everything.
type greenhouse struct {
	controls
	rng  *rand.Rand
	time float64 // s since midnight of the first day
	rest float64 // s that have passed and are less than a step
	dt   float64 // s of a step

	nextWeather float64 // when it changes

	air    float64 // °C
	vapour float64 // g/m³
	soil   float64 // kg of water
	tank   float64 // kg
	window float64 // position of the vent: 0 closed, 1 open

	outside, sun float64 // °C, W/m²
	cloud, drift float64 // 0 to 1; K
	door         bool
	doorEvery    float64 // mean s between two openings; 0: by hand
	doorChange   float64 // s until the door moves by itself
}

// newGreenhouse returns a house that has stood closed for two hours before the time of day.
func newGreenhouse(seed uint64, timeOfDay, doorEvery float64) *greenhouse {
	const before = 2 * 3600
	g := &greenhouse{
		rng:   rand.New(rand.NewPCG(seed, 0)),
		time:  math.Mod(timeOfDay+24*3600-before, 24*3600),
		soil:  0.38 * soilMass,
		tank:  0.9 * tankMass,
		cloud: 0.4,
		dt:    wholeStep,
	}
	g.weather()
	g.nextWeather = g.time + weatherTime
	g.air = g.outside + 5
	g.vapour = outsideHumidity * saturated(g.outside)
	g.run(before)
	g.doorEvery = doorEvery
	g.doorChange = doorEvery * g.rng.ExpFloat64()
	return g
}

// run lets time pass; a week at most, should the machine have slept for longer.
func (g *greenhouse) run(seconds float64) {
	g.rest = min(g.rest+max(seconds, 0), longest)
	for g.rest >= g.dt {
		g.rest -= g.dt
		g.step()
	}
}

// step moves the house on by one step.
func (g *greenhouse) step() {
	g.time += g.dt
	if g.time >= g.nextWeather {
		g.weather()
		g.nextWeather += weatherTime
	}
	g.moveDoor()
	move := -g.dt / ventTravel
	if g.vent {
		move = -move
	}
	g.window = min(max(g.window+move, 0), 1)

	g.exchange()
	g.water()
	g.condense()
}

// weather makes the sun and the air outside: a day's course and slow chance.
func (g *greenhouse) weather() {
	hour := math.Mod(g.time/3600, 24)
	g.cloud = min(max(g.cloud+0.02*g.rng.NormFloat64(), 0), 1)
	g.drift = 0.995*g.drift + 0.05*g.rng.NormFloat64()
	g.sun = max(0, 800*math.Sin(math.Pi*(hour-6)/12)) * (1 - 0.6*g.cloud)
	g.outside = 11 + 5*math.Cos(2*math.Pi*(hour-15)/24) + g.drift
}

// moveDoor opens the door now and then, and closes it.
func (g *greenhouse) moveDoor() {
	if g.doorEvery <= 0 {
		return
	}
	if g.doorChange -= g.dt; g.doorChange > 0 {
		return
	}
	g.door = !g.door
	g.doorChange = doorOpenTime
	if !g.door {
		g.doorChange = g.doorEvery * g.rng.ExpFloat64()
	}
}

// flow is the air that is exchanged with the outside, in m³/s.
func (g *greenhouse) flow() float64 {
	f := leak + ventFlow*g.window
	if g.fan {
		f += fanFlow
	}
	if g.door {
		f += doorFlow
	}
	return f
}

// exchange moves heat and vapour.
func (g *greenhouse) exchange() {
	gain := solarGain * g.sun * bedArea
	if g.heater {
		gain += heaterPower
	}
	if g.lamp {
		gain += lampPower
	}
	moist := min(max((g.soil/soilMass-0.1)/0.2, 0), 1) // dry soil gives no water
	missing := max(saturated(g.air)-g.vapour, 0)
	evaporated := min(bedArea*transpiration*moist*missing*g.dt, g.soil*1000) // g
	flow := g.flow()
	loss := (coverLoss+airHeat*flow)*(g.air-g.outside)*g.dt + latentHeat*evaporated
	vented := flow * (g.vapour - outsideHumidity*saturated(g.outside)) * g.dt // g

	g.air += (gain*g.dt - loss) / heatCapacity
	g.vapour += (evaporated - vented) / airVolume
	g.soil -= evaporated / 1000
}

// water moves water from the roof to the tank, from there to the soil, and from the soil away.
func (g *greenhouse) water() {
	g.tank = min(g.tank+tankRefill*g.dt, tankMass)
	if g.pump {
		pumped := min(pumpFlow*g.dt, g.tank)
		g.tank -= pumped
		g.soil += pumped
	}
	drained := max(g.soil-fieldCapacity*soilMass, 0) * g.dt / drainTime
	drained = max(drained, g.soil-saturation*soilMass)
	g.soil -= drained
}

// condense lets what the air cannot hold drip from the cover, and its heat stay.
func (g *greenhouse) condense() {
	excess := (g.vapour - saturated(g.air)) * airVolume
	if excess <= 0 {
		return
	}
	g.vapour -= excess / airVolume
	g.soil += excess / 1000
	g.air += latentHeat * excess / heatCapacity
}

// humidity is the relative humidity in %.
func (g *greenhouse) humidity() float64 {
	return min(100*g.vapour/saturated(g.air), 100)
}

// saturated returns how much vapour air can hold, in g/m³: the Magnus formula for the vapour
// pressure over water (Sonntag 1990) and the gas law.
func saturated(celsius float64) float64 {
	pressure := 611.2 * math.Exp(17.62*celsius/(243.12+celsius)) // Pa
	return pressure / (461.5 * (celsius + 273.15)) * 1000
}
